package com.datasert.triseal;

import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.RetryInfo;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import java.time.Duration;
import java.util.EnumSet;
import java.util.Optional;
import java.util.Set;
import java.util.concurrent.ThreadLocalRandom;

/** The service refused. */
public class TrisealException extends RuntimeException {
  private static final long serialVersionUID = 1;
  private static final Metadata.Key<String> REASON = Metadata.Key.of("triseal-reason", Metadata.ASCII_STRING_MARSHALLER);

  private static final Set<Status.Code> UNDECIDED =
      EnumSet.of(Status.Code.UNAVAILABLE, Status.Code.DEADLINE_EXCEEDED, Status.Code.CANCELLED, Status.Code.UNKNOWN);

  private final Status.Code code;
  private final String reason;
  private final Duration retryAfter;

  TrisealException(Status.Code code, String reason, String message, Duration retryAfter) {
    super((code + " " + reason).strip() + ": " + message);
    this.code = code;
    this.reason = reason;
    this.retryAfter = retryAfter;
  }

  static TrisealException of(StatusRuntimeException error) {
    Metadata trailers = Optional.ofNullable(error.getTrailers()).orElseGet(Metadata::new);
    String reason = Optional.ofNullable(trailers.get(REASON)).orElse("");
    Status.Code code = error.getStatus().getCode();
    String message = Optional.ofNullable(error.getStatus().getDescription()).orElse("");
    return reason.equals("NEEDS_REAUTH")
        ? new NeedsReauthException(code, message)
        : new TrisealException(code, reason, message, retryAfter(error));
  }

  /** The status code. */
  public Status.Code code() {
    return code;
  }

  /** One of the reasons in triseal's interface; empty if the call did not reach a decision. */
  public String reason() {
    return reason;
  }

  boolean has(String... reasons) {
    return Set.of(reasons).contains(reason);
  }

  /** After what time the next call may be made, where this one was answered. */
  Duration retryAfter() {
    return retryAfter == null ? backoff(0) : retryAfter;
  }

  /** Whether nothing was decided, or nobody knows what: the same call, under the same idempotency key, may be made again. */
  boolean isUndecided() {
    // KMS_REFUSED is UNAVAILABLE, too, but someone has to act.
    return !has("KMS_REFUSED") && (UNDECIDED.contains(code) || (code == Status.Code.INTERNAL && reason.isEmpty()));
  }

  /** After what time the same call may be made again. Empty: it would be refused again. */
  Optional<Duration> delay(int attempt) {
    if (reason.equals("REFRESH_IN_PROGRESS")) {
      // That is an answer. The next call is another one.
      return Optional.empty();
    }
    if (retryAfter != null) {
      return Optional.of(retryAfter.plusMillis(ThreadLocalRandom.current().nextInt(100)));
    }
    return isUndecided() || has("CHANGED_CONCURRENTLY") ? Optional.of(backoff(attempt)) : Optional.empty();
  }

  /** 0.1 s, doubled to 2 s at most, give or take a half. */
  static Duration backoff(int attempt) {
    long milliseconds = Math.min(100L << Math.min(attempt, 10), 2_000);
    return Duration.ofMillis(milliseconds / 2 + ThreadLocalRandom.current().nextLong(milliseconds));
  }

  private static Duration retryAfter(StatusRuntimeException error) {
    com.google.rpc.Status status = StatusProto.fromThrowable(error);
    for (Any detail : status == null ? java.util.List.<Any>of() : status.getDetailsList()) {
      if (detail.is(RetryInfo.class)) {
        try {
          com.google.protobuf.Duration delay = detail.unpack(RetryInfo.class).getRetryDelay();
          return Duration.ofSeconds(delay.getSeconds(), delay.getNanos());
        } catch (InvalidProtocolBufferException malformed) {
          return null;
        }
      }
    }
    return null;
  }
}
