/** What a bundle, a task or a call is refused for. code: one word; message: what to do. */
export class HydraError extends Error {
  constructor(code, message) {
    super(message);
    this.name = "HydraError";
    this.code = code;
  }
}
