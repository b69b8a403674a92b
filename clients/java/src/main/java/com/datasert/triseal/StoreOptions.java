package com.datasert.triseal;

import java.time.Duration;

/**
 * How a connection is stored: {@code StoreOptions.OVERWRITE.withIdempotencyKey(key)}.
 *
 * @param tokenUrl where the answer came from; null: derived from the answer's {@code id}
 * @param ifRevision 0: nothing may be stored there yet; N: that revision must be; null: it is written over
 * @param idempotencyKey for whoever may be stopped on the way: under one key the same answer is stored once; null: a random one
 * @param timeout how long to try
 */
public record StoreOptions(String tokenUrl, Long ifRevision, String idempotencyKey, Duration timeout) {
  /** Whatever is there is written over, within 30 s. */
  public static final StoreOptions OVERWRITE = new StoreOptions(null, null, null, Duration.ofSeconds(30));

  /** Nothing may be stored there yet. */
  public static final StoreOptions NEW = OVERWRITE.withIfRevision(0);

  public StoreOptions withTokenUrl(String tokenUrl) {
    return new StoreOptions(tokenUrl, ifRevision, idempotencyKey, timeout);
  }

  public StoreOptions withIfRevision(long ifRevision) {
    return new StoreOptions(tokenUrl, ifRevision, idempotencyKey, timeout);
  }

  public StoreOptions withIdempotencyKey(String idempotencyKey) {
    return new StoreOptions(tokenUrl, ifRevision, idempotencyKey, timeout);
  }

  public StoreOptions withTimeout(Duration timeout) {
    return new StoreOptions(tokenUrl, ifRevision, idempotencyKey, timeout);
  }
}
