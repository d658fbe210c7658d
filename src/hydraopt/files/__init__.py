"""Files in and out: only regular ones, replaced in one step, apart from the inputs."""
