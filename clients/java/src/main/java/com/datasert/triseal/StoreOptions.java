package com.datasert.triseal;

/**
 * How a connection is stored.
 *
 * @param tokenUrl where the answer came from; null: derived from the answer's {@code id}
 * @param ifRevision 0: nothing may be stored there yet; N: that revision must be; null: it is written over
 * @param idempotencyKey for whoever may be stopped on the way: under one key the same answer is stored once; null: a random one
 */
public record StoreOptions(String tokenUrl, Long ifRevision, String idempotencyKey) {
  /** Whatever is there is written over. */
  public static final StoreOptions OVERWRITE = new StoreOptions(null, null, null);

  /** Nothing may be stored there yet. */
  public static final StoreOptions NEW = new StoreOptions(null, 0L, null);
}
