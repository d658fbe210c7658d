"""``python -m hydraopt``."""

from hydraopt.cli.main import main

if __name__ == "__main__":
    main()
