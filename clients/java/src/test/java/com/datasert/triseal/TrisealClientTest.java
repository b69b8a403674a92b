package com.datasert.triseal;

import static com.datasert.triseal.Surroundings.CUSTOMER;
import static com.datasert.triseal.Surroundings.consent;
import static com.datasert.triseal.Surroundings.drainAndRestart;
import static com.datasert.triseal.Surroundings.expire;
import static com.datasert.triseal.Surroundings.faults;
import static com.datasert.triseal.Surroundings.killAndRestart;
import static com.datasert.triseal.Surroundings.seen;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.datasert.triseal.v1.Credential;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import com.google.protobuf.util.Timestamps;
import java.io.IOException;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.nio.file.attribute.FileTime;
import java.time.Duration;
import java.time.Instant;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.stream.IntStream;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** The client against a real triseald and the Salesforce of tests/support. Run by clients/test. */
class TrisealClientTest {
  private static final AtomicInteger NUMBER = new AtomicInteger();
  private static TrisealClient sync;
  private static TrisealClient task;

  @BeforeAll
  static void connect() {
    sync = Surroundings.client("realsync");
    task = Surroundings.client("realtask");
  }

  @AfterAll
  static void disconnect() {
    sync.close();
    task.close();
  }

  private static String name() {
    return "shared.java-" + NUMBER.incrementAndGet();
  }

  /** A connection that is stored. */
  private static String stored() {
    String crm = name();
    sync.storeConnection(CUSTOMER, crm, consent(crm), StoreOptions.NEW);
    return crm;
  }

  private static void call(TrisealClient client, String crm) {
    assertEquals(crm, client.callWithToken(CUSTOMER, crm, Surroundings::limits));
  }

  private static void call(TrisealClient client, String crm, Duration timeout) {
    assertEquals(crm, client.callWithToken(CUSTOMER, crm, timeout, Surroundings::limits));
  }

  private static void hasSeen(String crm, int deaths, int refreshes, int reuses) {
    JsonObject seen = seen(crm);
    List<Integer> found = List.of(seen.get("deaths").getAsInt(), seen.get("refreshes").getAsInt(), seen.get("reuses").getAsInt());
    assertEquals(List.of(deaths, refreshes, reuses), found, "deaths, refreshes, reuses");
  }

  private static void refused(String reason, org.junit.jupiter.api.function.Executable call) {
    assertEquals(reason, assertThrows(TrisealException.class, call).reason());
  }

  @Test
  void aConnectionIsStoredOnceAndReadByAnotherProduct() {
    String crm = name();
    String answer = consent(crm);
    JsonObject said = JsonParser.parseString(answer).getAsJsonObject();
    for (int times = 0; times < 2; times++) {
      Credential credential = sync.storeConnection(CUSTOMER, crm, answer, StoreOptions.NEW.withIdempotencyKey("consent-" + crm));
      assertEquals(1, credential.getRevision());
      assertEquals(said.get("issued_at").getAsLong(), Timestamps.toMillis(credential.getRefreshTime()));
    }
    String anew = consent(crm);
    refused("CREDENTIAL_EXISTS", () -> sync.storeConnection(CUSTOMER, crm, anew, StoreOptions.NEW));
    List<String> given = task.callWithToken(CUSTOMER, crm, (token, url) -> List.of(token, url));
    assertEquals(List.of(said.get("access_token").getAsString(), said.get("instance_url").getAsString()), given);
  }

  @Test
  void whatPolicyRefusesIsSaidAtOnce() {
    refused("NOT_PERMITTED", () -> call(task, "realsync.crm"));
  }

  @Test
  void aDeadTokenIsRefreshedAndTheCallMadeAgain() {
    String crm = stored();
    call(sync, crm);
    for (int deaths = 1; deaths <= 2; deaths++) {
      expire(crm);
      call(sync, crm);
      hasSeen(crm, deaths, deaths, 0);
    }
  }

  @Test
  void whatSomebodyElseHasRefreshedIsTaken() {
    String crm = stored();
    expire(crm);
    Set<String> used = new HashSet<>();
    sync.callWithToken(
        CUSTOMER,
        crm,
        (token, url) -> {
          if (used.isEmpty()) {
            call(task, crm);
          }
          used.add(token);
          return Surroundings.limits(token, url);
        });
    assertEquals(2, used.size());
    hasSeen(crm, 1, 1, 0);
  }

  @Test
  void thoseWhoWaitGetWhatOneBringsEvenFromAnotherService() throws InterruptedException {
    String crm = stored();
    faults(crm, "slow");
    expire(crm);
    ExecutorService threads = Executors.newFixedThreadPool(8);
    CompletableFuture<?>[] calls =
        IntStream.range(0, 8)
            .mapToObj(number -> CompletableFuture.runAsync(() -> call(number % 2 == 0 ? sync : task, crm), threads))
            .toArray(CompletableFuture[]::new);
    Thread.sleep(500);
    drainAndRestart();
    CompletableFuture.allOf(calls).join();
    threads.shutdown();
    hasSeen(crm, 1, 1, 0);
  }

  @Test
  void aSalesforceThatIsAwayForAMomentIsAskedAgain() {
    String crm = stored();
    faults(crm, "unavailable", "odd");
    expire(crm);
    call(sync, crm);
    hasSeen(crm, 1, 1, 0);
  }

  @Test
  void tokensAreKeptThoughWhatIsBesideThemIsRefused() {
    String crm = stored();
    faults(crm, "unstorable");
    for (int deaths = 1; deaths <= 2; deaths++) {
      expire(crm);
      call(sync, crm);
      hasSeen(crm, deaths, deaths, 0);
    }
  }

  @Test
  void aRefusalThatIsNotTheTokensFaultEndsNoConnection() {
    String crm = stored();
    expire(crm);
    faults(crm, "restricted");
    assertEquals("ip restricted", assertThrows(SalesforceException.class, () -> call(sync, crm)).description());
    ConnectedApp app = new ConnectedApp("test", "");
    try (TrisealClient unknown =
        Surroundings.client(Surroundings.endpoint(), app, Surroundings.file("realsync.pem"), Surroundings.file("realsync.key"))) {
      assertEquals("invalid_client", assertThrows(SalesforceException.class, () -> call(unknown, crm)).error());
    }
    call(task, crm);
    hasSeen(crm, 1, 1, 0);
  }

  @Test
  void aSalesforceThatIsNotThereKeepsNobodyWaiting() {
    String crm = name();
    // Nobody listens there.
    String tokenUrl = "http://127.0.0.1:2/services/oauth2/token";
    sync.storeConnection(CUSTOMER, crm, consent(crm), StoreOptions.NEW.withTokenUrl(tokenUrl));
    expire(crm);
    for (TrisealClient who : List.of(sync, task)) {
      assertThrows(SalesforceException.class, () -> call(who, crm, Duration.ofSeconds(3)));
    }
  }

  @Test
  void whatIsInDoubtLetsTheLeaseLapse() {
    String unread = stored();
    String lost = stored();
    var found = Map.of("lost_before", unread, "lost_after", lost);
    for (String fault : List.of("lost_before", "lost_after", "cut", "stalled", "bad_gateway", "busy")) {
      String crm = found.containsKey(fault) ? found.get(fault) : stored();
      faults(crm, fault);
      expire(crm);
      assertThrows(SalesforceException.class, () -> call(sync, crm));
      refused("REFRESH_IN_PROGRESS", () -> call(task, crm, Duration.ofSeconds(2)));
    }
    // 60 s of lease and 65 s more. What Salesforce had not read is refreshed then.
    call(task, unread, Duration.ofMinutes(3));
    hasSeen(unread, 1, 1, 0);
    // What it had is found out once, and the customer consents again.
    call(sync, unread);
    for (TrisealClient who : List.of(task, sync)) {
      assertThrows(NeedsReauthException.class, () -> call(who, lost, Duration.ofSeconds(20)));
    }
    hasSeen(lost, 1, 1, 1);
    sync.storeConnection(CUSTOMER, lost, consent(lost));
    call(task, lost);
  }

  @Test
  void allReplicasAreUsedAndOneThatDiesIsNotMissed() {
    String crm = name();
    String answer = consent(crm);
    Instant end = Instant.now().plusSeconds(30);
    try (TrisealClient both =
        Surroundings.client(Surroundings.variable("REPLICAS"), Surroundings.file("realsync.pem"), Surroundings.file("realsync.key"))) {
      // They share no store: each takes it once.
      for (int taken = 0; taken < 2; ) {
        try {
          both.storeConnection(CUSTOMER, crm, answer, StoreOptions.NEW);
          taken++;
        } catch (TrisealException error) {
          assertTrue(error.has("CREDENTIAL_EXISTS") && Instant.now().isBefore(end), error::toString);
        }
      }
      Surroundings.killAReplica();
      for (int times = 0; times < 20; times++) {
        call(both, crm);
      }
    }
  }

  @Test
  void aServiceThatIsKilledWhileSalesforceAnswersLosesNoTokens() {
    String crm = stored();
    faults(crm, "slow");
    expire(crm);
    CompletableFuture<Void> killed =
        CompletableFuture.runAsync(Surroundings::killAndRestart, CompletableFuture.delayedExecutor(500, TimeUnit.MILLISECONDS));
    call(sync, crm);
    killed.join();
    killAndRestart();
    call(sync, crm);
    hasSeen(crm, 1, 1, 0);
  }

  @Test
  void whoeverInterruptsACallerDoesNotEndARefresh() throws InterruptedException {
    String crm = stored();
    faults(crm, "slow");
    expire(crm);
    Thread caller = new Thread(() -> call(sync, crm));
    caller.setUncaughtExceptionHandler((thread, error) -> {});
    caller.start();
    Thread.sleep(700);
    caller.interrupt();
    caller.join();
    call(task, crm);
    hasSeen(crm, 1, 1, 0);
  }

  @Test
  void aLeaseOfWhichNobodyKnowsIsGivenBack() {
    String crm = stored();
    TokenCall<String, RuntimeException> dies =
        (token, url) -> {
          expire(crm);
          Surroundings.mute();
          throw new UnauthorizedException();
        };
    try (TrisealClient far = Surroundings.far()) {
      assertThrows(TrisealException.class, () -> far.callWithToken(CUSTOMER, crm, Duration.ofSeconds(1), dies));
      Surroundings.unmute();
      call(task, crm);
    }
    hasSeen(crm, 1, 1, 0);
  }

  @Test
  void closingWaitsForARefreshThatIsUnderWay() throws InterruptedException {
    String crm = stored();
    faults(crm, "slow");
    expire(crm);
    TrisealClient closing = Surroundings.client("realsync");
    Thread caller = new Thread(() -> call(closing, crm));
    caller.setUncaughtExceptionHandler((thread, error) -> {});
    caller.start();
    Thread.sleep(700);
    closing.close();
    caller.join();
    call(task, crm);
    hasSeen(crm, 1, 1, 0);
  }

  @Test
  void a401ThatIsNoTokensFaultEnds() {
    String crm = stored();
    assertThrows(
        UnauthorizedException.class,
        () ->
            sync.callWithToken(
                CUSTOMER,
                crm,
                (token, url) -> {
                  throw new UnauthorizedException();
                }));
    hasSeen(crm, 0, 2, 0);
  }

  @Test
  void disconnectingRevokesAndErases() {
    String crm = stored();
    assertTrue(sync.disconnect(CUSTOMER, crm));
    assertTrue(seen(crm).get("revoked").getAsBoolean());
    refused("CREDENTIAL_NOT_FOUND", () -> call(task, crm));
    assertFalse(sync.disconnect(CUSTOMER, crm), "nothing was left to revoke");
  }

  @Test
  void whatIsRevokedIsErasedHoweverLongItTakes() {
    String crm = stored();
    faults(crm, "revoke_slow");
    try (TrisealClient far = Surroundings.far()) {
      call(far, crm);
      var muted = CompletableFuture.runAsync(Surroundings::mute, CompletableFuture.delayedExecutor(700, TimeUnit.MILLISECONDS));
      var unmuted = CompletableFuture.runAsync(Surroundings::unmute, CompletableFuture.delayedExecutor(3, TimeUnit.SECONDS));
      assertTrue(far.disconnect(CUSTOMER, crm, Duration.ofSeconds(1)));
      CompletableFuture.allOf(muted, unmuted).join();
    }
    assertFalse(sync.disconnect(CUSTOMER, crm), "nothing was left");
  }

  @Test
  void whatIsNotRevokedIsLeftAsItWas() {
    String crm = stored();
    faults(crm, "revoke_unavailable");
    assertThrows(SalesforceException.class, () -> sync.disconnect(CUSTOMER, crm));
    expire(crm);
    call(task, crm);
    hasSeen(crm, 1, 1, 0);
  }

  @Test
  void aCertificateThatIsExchangedIsTaken(@TempDir Path folder) throws Exception {
    String crm = "realsync.java";
    exchange(folder, "realsync");
    try (TrisealClient changing = Surroundings.client(Surroundings.endpoint(), folder.resolve("own.pem"), folder.resolve("own.key"))) {
      changing.storeConnection(CUSTOMER, crm, consent(crm), StoreOptions.NEW);
      call(changing, crm);
      // Half written, when it is looked at.
      String key = Files.readString(folder.resolve("own.key"));
      Files.writeString(folder.resolve("own.key"), key.substring(0, key.indexOf('\n') + 6));
      Files.setLastModifiedTime(folder.resolve("own.key"), FileTime.from(Instant.now().plusSeconds(2)));
      Thread.sleep(3_000);
      exchange(folder, "realtask");
      refused(
          "NOT_PERMITTED",
          () -> {
            for (int times = 0; times < 60; times++) {
              // A new connection.
              killAndRestart();
              call(changing, crm);
              Thread.sleep(500);
            }
          });
    }
  }

  private static void exchange(Path folder, String caller) throws IOException {
    for (String kind : List.of(".pem", ".key")) {
      Files.copy(Surroundings.file(caller + kind), folder.resolve("new"));
      Files.setLastModifiedTime(folder.resolve("new"), FileTime.from(Instant.now()));
      Files.move(folder.resolve("new"), folder.resolve("own" + kind), StandardCopyOption.REPLACE_EXISTING);
    }
  }

  @Test
  void nothingPrintsASecret() {
    String crm = name();
    String answer = consent(crm);
    JsonObject said = JsonParser.parseString(answer).getAsJsonObject();
    sync.storeConnection(CUSTOMER, crm, answer, StoreOptions.NEW);
    faults(crm, "lost_after");
    expire(crm);
    StringWriter printed = new StringWriter();
    assertThrows(SalesforceException.class, () -> call(sync, crm)).printStackTrace(new PrintWriter(printed));
    String all = printed + new ConnectedApp("test", "app-secret").toString() + sync;
    for (String secret : List.of(said.get("access_token").getAsString(), said.get("refresh_token").getAsString(), "app-secret")) {
      assertFalse(all.contains(secret));
    }
  }
}
