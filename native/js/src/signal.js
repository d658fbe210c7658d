/** Signals of the caller that end calls. */

/** Returns a signal that is aborted when one of two is, each of which may be undefined. */
export function eitherOf(one, other) {
  return one && other ? AbortSignal.any([one, other]) : (one ?? other);
}

/** Settles as the promise does, or rejects with the signal's reason when that comes first. */
export async function unlessAborted(signal, promise) {
  if (!signal) return promise;
  let stop;
  const aborted = new Promise((_, reject) => {
    stop = () => reject(signal.reason);
    if (signal.aborted) stop();
    else signal.addEventListener("abort", stop);
  });
  try {
    return await Promise.race([aborted, promise]);
  } finally {
    signal.removeEventListener("abort", stop);
  }
}
