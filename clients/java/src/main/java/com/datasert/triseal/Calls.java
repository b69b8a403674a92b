package com.datasert.triseal;

import com.datasert.triseal.v1.CredentialServiceGrpc.CredentialServiceBlockingStub;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import java.time.Duration;
import java.util.Optional;
import java.util.concurrent.TimeUnit;
import java.util.function.Function;
import java.util.function.Predicate;

/** Single calls: each has a deadline, and is made again after what passes. */
final class Calls {
  /** One call, unless it waits for somebody else's refresh. */
  static final Duration TIMEOUT = Duration.ofSeconds(5);

  /** For how long new tokens are brought again and again: they may be the only living ones. */
  private static final Duration BRING = Duration.ofMinutes(5);

  private final CredentialServiceBlockingStub stub;

  Calls(CredentialServiceBlockingStub stub) {
    this.stub = stub;
  }

  /** When something has to be done by, on this machine's clock. */
  record Deadline(long nanos) {
    static Deadline after(Duration time) {
      return new Deadline(System.nanoTime() + time.toNanos());
    }

    Duration remaining() {
      return Duration.ofNanos(nanos - System.nanoTime());
    }

    /** Unless there is no time for it: then the failure is what there is to say. */
    void sleep(Duration delay, RuntimeException failure) {
      if (remaining().compareTo(delay) <= 0) {
        throw failure;
      }
      try {
        Thread.sleep(delay.toMillis());
      } catch (InterruptedException interrupted) {
        Thread.currentThread().interrupt();
        throw failure;
      }
    }
  }

  <T> T call(Deadline deadline, Function<CredentialServiceBlockingStub, T> method) {
    return call(deadline, TIMEOUT, method, error -> false);
  }

  /** Makes a call, again after what passes, until the deadline. Its request is the same each time, idempotency key and all. */
  <T> T call(
      Deadline deadline, Duration timeout, Function<CredentialServiceBlockingStub, T> method, Predicate<TrisealException> again) {
    for (int attempt = 0; ; attempt++) {
      long within = Math.max(Math.min(timeout.toNanos(), deadline.remaining().toNanos()), 100_000_000);
      TrisealException failure;
      try {
        return method.apply(stub.withDeadlineAfter(within, TimeUnit.NANOSECONDS));
      } catch (StatusRuntimeException error) {
        failure = TrisealException.of(error);
      }
      Optional<Duration> delay = failure.delay(attempt);
      if (delay.isEmpty() && again.test(failure)) {
        delay = Optional.of(TrisealException.backoff(attempt));
      }
      deadline.sleep(delay.orElseThrow(() -> failure), failure);
    }
  }

  /** Makes a call until it is known what became of it, whatever the caller's deadline is. */
  void settle(Function<CredentialServiceBlockingStub, ?> method, Predicate<TrisealException> again) {
    try {
      call(Deadline.after(BRING), TIMEOUT, method, again);
    } catch (TrisealException error) {
      // Somebody else has brought tokens since, or erased them.
      if (error.code() != Status.Code.ABORTED && error.code() != Status.Code.NOT_FOUND) {
        throw error;
      }
    }
  }

  /** Whether it is still open what becomes of a CompleteRefresh. A request that is not well-formed never will be. */
  static boolean isOpen(TrisealException error) {
    return switch (error.code()) {
      case ABORTED, NOT_FOUND, INVALID_ARGUMENT -> false;
      default -> true;
    };
  }
}
