package hydraopt;

import java.io.IOException;

/** An error of libhydra. The message states the problem, its place, and what to do. */
public final class HydraException extends IOException {
    private static final long serialVersionUID = 1L;

    /** The status in a word, such as "damaged" or "not there". */
    public final String status;

    HydraException(byte[] status, byte[] message) {
        super(Bundle.text(message));
        this.status = Bundle.text(status);
    }
}
