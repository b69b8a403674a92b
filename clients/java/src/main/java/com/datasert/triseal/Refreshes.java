package com.datasert.triseal;

import com.datasert.triseal.Calls.Deadline;
import com.datasert.triseal.v1.AbandonCause;
import com.datasert.triseal.v1.AbandonRefreshRequest;
import com.datasert.triseal.v1.AcquireRefreshRequest;
import com.datasert.triseal.v1.AcquireRefreshResponse;
import com.datasert.triseal.v1.CompleteRefreshRequest;
import com.datasert.triseal.v1.DecryptCredentialResponse;
import com.datasert.triseal.v1.DeleteCredentialRequest;
import com.datasert.triseal.v1.RefreshLease;
import com.datasert.triseal.v1.SalesforceOAuth;
import io.grpc.Status;
import java.time.Duration;
import java.util.UUID;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import java.util.concurrent.ExecutorService;

/** The steps of docs/REFRESH.md. */
final class Refreshes {
  private static final Duration WAIT = Duration.ofSeconds(8);
  private static final Duration CALL_THAT_WAITS = Duration.ofSeconds(10);
  private static final Duration LEASE = Duration.ofMinutes(1);

  /** What has to remain of a lease after the call to Salesforce, to bring its answer. */
  private static final Duration RESERVE = Duration.ofSeconds(15);

  private final Calls calls;
  private final Salesforce salesforce;
  private final ExecutorService holders;

  Refreshes(Calls calls, Salesforce salesforce, ExecutorService holders) {
    this.calls = calls;
    this.salesforce = salesforce;
    this.holders = holders;
  }

  record Place(String customerId, String credentialId) {}

  /** An answer, and since when a lease in it may have been running, by this machine's clock. */
  private record Acquired(AcquireRefreshResponse outcome, long began) {}

  /** Tokens that are newer than the rejected ones, whoever refreshes them. */
  DecryptCredentialResponse fresh(Place place, Long rejected, Deadline deadline) {
    while (true) {
      Acquired acquired = acquire(place, rejected, deadline);
      if (acquired.outcome.hasFresh()) {
        return acquired.outcome.getFresh();
      }
      undisturbed(() -> refresh(acquired.outcome.getLease(), acquired.began, deadline));
    }
  }

  /** The lease, at whatever revision the credential comes to. */
  RefreshLease lease(Place place, long revision, Deadline deadline) {
    while (true) {
      AcquireRefreshResponse outcome = acquire(place, revision, deadline).outcome;
      if (outcome.hasLease()) {
        return outcome.getLease();
      }
      revision = outcome.getFresh().getCredential().getRevision();
    }
  }

  /** Revokes the connection at Salesforce, under its lease, and erases it. */
  void revoke(RefreshLease lease) {
    undisturbed(
        () -> {
          try {
            salesforce.revoke(lease.getSecret().getSalesforceOauth());
          } catch (SalesforceException error) {
            abandon(lease, AbandonCause.ABANDON_CAUSE_TRANSIENT, "");
            throw error;
          }
          DeleteCredentialRequest erase =
              DeleteCredentialRequest.newBuilder()
                  .setCustomerId(lease.getCredential().getCustomerId())
                  .setCredentialId(lease.getCredential().getCredentialId())
                  .setIfRevision(lease.getCredential().getRevision())
                  .build();
          calls.settle(stub -> stub.deleteCredential(erase), error -> false);
        });
  }

  private Acquired acquire(Place place, Long rejected, Deadline deadline) {
    while (true) {
      AcquireRefreshRequest.Builder request =
          AcquireRefreshRequest.newBuilder()
              .setCustomerId(place.customerId)
              .setCredentialId(place.credentialId)
              .setWait(seconds(WAIT))
              .setLeaseTtl(seconds(LEASE))
              // New for each call, and the same when it is tried again: then a lease whose answer was lost is given again.
              .setIdempotencyKey(UUID.randomUUID().toString());
      if (rejected != null) {
        request.setRejectedRevision(rejected);
      }
      long began = System.nanoTime();
      try {
        return new Acquired(calls.call(deadline, CALL_THAT_WAITS, stub -> stub.acquireRefresh(request.build()), error -> false), began);
      } catch (TrisealException error) {
        if (rejected != null && error.isUndecided() && !holders.isShutdown()) {
          // Whoever rejects a token may have got a lease of which nobody knows. The others need not wait for its end.
          AcquireRefreshRequest again = request.clearWait().build();
          holders.execute(() -> withdraw(again));
        }
        if (!error.has("REFRESH_IN_PROGRESS")) {
          throw error;
        }
        deadline.sleep(error.retryAfter(), error);
      }
    }
  }

  /** Gives the lease back that a request may have got: it was never used. */
  private void withdraw(AcquireRefreshRequest request) {
    try {
      AcquireRefreshResponse outcome = calls.call(Deadline.after(CALL_THAT_WAITS), stub -> stub.acquireRefresh(request));
      if (outcome.hasLease()) {
        abandon(outcome.getLease(), AbandonCause.ABANDON_CAUSE_TRANSIENT, "");
      }
    } catch (TrisealException lapses) {
      // The others wait for its end.
    }
  }

  /** The holder's one call to Salesforce, and what becomes of it. */
  private void refresh(RefreshLease lease, long began, Deadline deadline) {
    Duration held = Duration.ofNanos(System.nanoTime() - began);
    if (held.compareTo(LEASE.minus(Salesforce.HTTP_TIMEOUT).minus(RESERVE)) > 0) {
      abandon(lease, AbandonCause.ABANDON_CAUSE_TRANSIENT, "");
      return;
    }
    SalesforceOAuth brought;
    try {
      brought = salesforce.refresh(lease.getSecret().getSalesforceOauth());
    } catch (SalesforceException error) {
      if (error.tokenIsDead()) {
        // The next AcquireRefresh says NEEDS_REAUTH, to this caller and to all others.
        abandon(lease, AbandonCause.ABANDON_CAUSE_INVALID_GRANT, error.description());
        return;
      }
      if (error.inDoubt()) {
        // Whoever used the token now might use it twice. The lease lapses.
        throw error;
      }
      abandon(lease, AbandonCause.ABANDON_CAUSE_TRANSIENT, "");
      if (!error.mayPass()) {
        throw error;
      }
      deadline.sleep(TrisealException.backoff(3), error);
      return;
    }
    try {
      complete(lease, brought);
    } catch (TrisealException error) {
      if (error.code() != Status.Code.INVALID_ARGUMENT) {
        throw error;
      }
      // Something beside the tokens can't be stored. Then what was known of it stays.
      complete(
          lease,
          SalesforceOAuth.newBuilder().setAccessToken(brought.getAccessToken()).setRefreshToken(brought.getRefreshToken()).build());
    }
  }

  private void complete(RefreshLease lease, SalesforceOAuth brought) {
    CompleteRefreshRequest request =
        CompleteRefreshRequest.newBuilder()
            .setCustomerId(lease.getCredential().getCustomerId())
            .setCredentialId(lease.getCredential().getCredentialId())
            .setLeaseToken(lease.getLeaseToken())
            .setSalesforceOauth(brought)
            .build();
    calls.settle(stub -> stub.completeRefresh(request), Calls::isOpen);
  }

  private void abandon(RefreshLease lease, AbandonCause cause, String detail) {
    String printable = detail.replaceAll("[^ -~]", "");
    AbandonRefreshRequest request =
        AbandonRefreshRequest.newBuilder()
            .setCustomerId(lease.getCredential().getCustomerId())
            .setCredentialId(lease.getCredential().getCredentialId())
            .setLeaseToken(lease.getLeaseToken())
            .setCause(cause)
            .setDetail(printable.substring(0, Math.min(printable.length(), 200)))
            .build();
    calls.settle(stub -> stub.abandonRefresh(request), error -> false);
  }

  /** On a thread that nobody interrupts: a refresh token that was used up has to be followed by its successor. */
  private void undisturbed(Runnable work) {
    try {
      CompletableFuture.runAsync(work, holders).join();
    } catch (CompletionException failed) {
      if (failed.getCause() instanceof RuntimeException cause) {
        throw cause;
      }
      throw failed;
    }
  }

  private static com.google.protobuf.Duration seconds(Duration time) {
    return com.google.protobuf.Duration.newBuilder().setSeconds(time.toSeconds()).build();
  }
}
