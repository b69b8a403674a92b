package com.datasert.triseal;

import com.datasert.triseal.Calls.Deadline;
import com.datasert.triseal.Refreshes.Place;
import com.datasert.triseal.v1.Credential;
import com.datasert.triseal.v1.CredentialServiceGrpc;
import com.datasert.triseal.v1.DecryptCredentialResponse;
import com.datasert.triseal.v1.DeleteCredentialRequest;
import com.datasert.triseal.v1.EncryptCredentialRequest;
import com.datasert.triseal.v1.GetCredentialRequest;
import com.datasert.triseal.v1.RefreshLease;
import com.datasert.triseal.v1.SalesforceOAuth;
import com.datasert.triseal.v1.Secret;
import com.google.gson.Gson;
import com.google.gson.JsonObject;
import com.google.gson.reflect.TypeToken;
import io.grpc.ChannelCredentials;
import io.grpc.Grpc;
import io.grpc.ManagedChannel;
import io.grpc.TlsChannelCredentials;
import io.grpc.util.AdvancedTlsX509KeyManager;
import io.grpc.util.AdvancedTlsX509TrustManager;
import java.io.File;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.Reader;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.security.GeneralSecurityException;
import java.time.Duration;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;

/** One for a process, shared by its threads. */
public final class TrisealClient implements AutoCloseable {
  private static final Duration PATIENCE = Duration.ofSeconds(45);

  /** So many refused access tokens in a row, each newer than the one before, mean that Salesforce refuses more than tokens. */
  private static final int MAX_REFUSED = 3;

  /** How often the certificates' files are looked at. The service looks at its own as often. */
  private static final long LOOK_EVERY_SECONDS = 2;

  private final ManagedChannel channel;
  private final ScheduledExecutorService watcher = Executors.newSingleThreadScheduledExecutor(TrisealClient::daemon);
  private final ExecutorService holders = Executors.newCachedThreadPool(TrisealClient::daemon);
  private final Calls calls;
  private final Refreshes refreshes;

  /**
   * Makes a client, which connects when it is first used. The files may be exchanged.
   *
   * @param endpoint {@code HOST:PORT}, or any target of gRPC's; every address that it has is used in turn
   * @param ca PEM file of the service's CA
   * @param certificate PEM file of the own certificate
   * @param key PEM file of its private key, in PKCS #8
   */
  public TrisealClient(String endpoint, ConnectedApp app, Path ca, Path certificate, Path key) throws IOException {
    channel = channel(endpoint, credentials(ca.toFile(), certificate.toFile(), key.toFile()));
    calls = new Calls(CredentialServiceGrpc.newBlockingStub(channel));
    refreshes = new Refreshes(calls, new Salesforce(app), holders);
  }

  /** {@link #storeConnection(String, String, String, StoreOptions)}, over whatever is there. */
  public Credential storeConnection(String customerId, String credentialId, String answer) {
    return storeConnection(customerId, credentialId, answer, StoreOptions.OVERWRITE);
  }

  /** Stores the JSON that Salesforce's token endpoint answered after a customer's consent. */
  public Credential storeConnection(String customerId, String credentialId, String answer, StoreOptions options) {
    JsonObject said = Salesforce.parsed(answer);
    if (Salesforce.text(said, "access_token").isEmpty()) {
      throw new IllegalArgumentException("this is not an answer with tokens of Salesforce's token endpoint");
    }
    String tokenUrl = options.tokenUrl() != null ? options.tokenUrl() : Salesforce.tokenUrlOf(said);
    EncryptCredentialRequest.Builder request =
        EncryptCredentialRequest.newBuilder()
            .setCustomerId(customerId)
            .setCredentialId(credentialId)
            .setSecret(Secret.newBuilder().setSalesforceOauth(Salesforce.tokens(said, tokenUrl)))
            .setIdempotencyKey(options.idempotencyKey() != null ? options.idempotencyKey() : UUID.randomUUID().toString());
    if (options.ifRevision() != null) {
      request.setIfRevision(options.ifRevision());
    }
    return calls.call(Deadline.after(options.timeout()), stub -> stub.encryptCredential(request.build())).getCredential();
  }

  /** {@link #callWithToken(String, String, Duration, TokenCall)}, within 45 s. */
  public <T, E extends Exception> T callWithToken(String customerId, String credentialId, TokenCall<T, E> call) throws E {
    return callWithToken(customerId, credentialId, PATIENCE, call);
  }

  /**
   * Makes a call with an access token, and again with newer tokens when it throws {@link UnauthorizedException}.
   *
   * @param timeout how long to try. It takes longer only where it holds the lease: what was begun at Salesforce has to be brought to an end
   * @throws NeedsReauthException if the customer has to consent again
   * @throws TrisealException if there was no living token in time, or the service refuses
   * @throws SalesforceException if Salesforce refuses to refresh, or was away all the time
   */
  public <T, E extends Exception> T callWithToken(String customerId, String credentialId, Duration timeout, TokenCall<T, E> call)
      throws E {
    Deadline deadline = Deadline.after(timeout);
    Long rejected = null;
    for (int refused = 1; ; refused++) {
      DecryptCredentialResponse fresh = refreshes.fresh(new Place(customerId, credentialId), rejected, deadline);
      SalesforceOAuth connection = fresh.getSecret().getSalesforceOauth();
      try {
        return call.call(connection.getAccessToken(), connection.getInstanceUrl());
      } catch (UnauthorizedException error) {
        if (refused == MAX_REFUSED) {
          throw error;
        }
        rejected = fresh.getCredential().getRevision();
      }
    }
  }

  /** {@link #disconnect(String, String, Duration)}, within 45 s. */
  public boolean disconnect(String customerId, String credentialId) {
    return disconnect(customerId, credentialId, PATIENCE);
  }

  /**
   * Revokes the connection at Salesforce, and erases it. May be repeated.
   *
   * <p>What was revoked is erased, and takes longer than the timeout if need be. What a customer who connects anew has stored meanwhile is
   * left alone.
   *
   * @return false if it was erased, or was gone, without being revoked: there was no refresh token that this caller may see, as in NEEDS_REAUTH
   */
  public boolean disconnect(String customerId, String credentialId, Duration timeout) {
    Deadline deadline = Deadline.after(timeout);
    RefreshLease lease;
    try {
      var known = GetCredentialRequest.newBuilder().setCustomerId(customerId).setCredentialId(credentialId).build();
      long revision = calls.call(deadline, stub -> stub.getCredential(known)).getCredential().getRevision();
      try {
        lease = refreshes.lease(new Place(customerId, credentialId), revision, deadline);
      } catch (TrisealException error) {
        if (!error.has("NEEDS_REAUTH", "NOT_REFRESHABLE")) {
          throw error;
        }
        var erase =
            DeleteCredentialRequest.newBuilder().setCustomerId(customerId).setCredentialId(credentialId).setIfRevision(revision).build();
        calls.call(deadline, stub -> stub.deleteCredential(erase));
        return false;
      }
    } catch (TrisealException error) {
      if (!error.has("CREDENTIAL_NOT_FOUND")) {
        throw error;
      }
      return false;
    }
    refreshes.revoke(lease);
    return true;
  }

  /** Ends the connections. A refresh that is under way is waited for. */
  @Override
  public void close() {
    holders.shutdown();
    try {
      holders.awaitTermination(30, TimeUnit.SECONDS);
    } catch (InterruptedException interrupted) {
      Thread.currentThread().interrupt();
    }
    watcher.shutdownNow();
    channel.shutdown();
  }

  /** By the files as they are when a connection is made, or were a moment before. */
  private ChannelCredentials credentials(File ca, File certificate, File key) throws IOException {
    try {
      var trusted = AdvancedTlsX509TrustManager.newBuilder().build();
      var own = new AdvancedTlsX509KeyManager();
      trusted.updateTrustCredentials(ca);
      own.updateIdentityCredentials(certificate, key);
      Runnable look =
          () -> {
            try {
              trusted.updateTrustCredentials(ca);
              own.updateIdentityCredentials(certificate, key);
            } catch (IOException | GeneralSecurityException | RuntimeException ignored) {
              // A file that is not there, or is half written, is about to be good. What is thrown here would end the looking.
            }
          };
      watcher.scheduleWithFixedDelay(look, LOOK_EVERY_SECONDS, LOOK_EVERY_SECONDS, TimeUnit.SECONDS);
      return TlsChannelCredentials.newBuilder().trustManager(trusted).keyManager(own).build();
    } catch (GeneralSecurityException error) {
      throw new IOException("the certificates can't be used", error);
    }
  }

  private static ManagedChannel channel(String endpoint, ChannelCredentials credentials) throws IOException {
    return Grpc.newChannelBuilder(endpoint, credentials)
        .defaultServiceConfig(serviceConfig())
        // A replica that is gone without a word is noticed.
        .keepAliveTime(60, TimeUnit.SECONDS)
        .keepAliveTimeout(10, TimeUnit.SECONDS)
        .build();
  }

  private static Thread daemon(Runnable work) {
    Thread thread = new Thread(work, "triseal");
    thread.setDaemon(true);
    return thread;
  }

  private static Map<String, ?> serviceConfig() throws IOException {
    try (Reader reader =
        new InputStreamReader(TrisealClient.class.getResourceAsStream("service-config.json"), StandardCharsets.UTF_8)) {
      return new Gson().fromJson(reader, new TypeToken<Map<String, Object>>() {}.getType());
    }
  }
}
