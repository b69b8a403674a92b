package triseal_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"datasert.com/triseal"
	"datasert.com/triseal/internal/surroundings"
)

// Against a real triseald and the Salesforce of tests/support. Run by clients/test.

const customer = surroundings.Customer

var limits = surroundings.Limits

func client(t *testing.T, caller string) *triseal.Client {
	t.Helper()
	made, err := surroundings.NewClient(caller)
	check(t, err)
	t.Cleanup(func() { _ = made.Close() })
	return made
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func salesforce(t *testing.T, path string, body any) []byte {
	t.Helper()
	said, err := surroundings.Post(os.Getenv("SALESFORCE_URL")+path, body)
	check(t, err)
	return said
}

// order has clients/test do something with the services.
func order(t *testing.T, what string) {
	t.Helper()
	_, err := surroundings.Post(os.Getenv("CONTROL_URL")+what, nil)
	check(t, err)
}

func killAndRestart(t *testing.T) { order(t, "/kill") }

func drainAndRestart(t *testing.T) { order(t, "/drain") }

// far is a client on whose line answers can be held up: from "/mute" to "/unmute" what it asks for is done, and not answered.
func far(t *testing.T) *triseal.Client {
	t.Helper()
	config := surroundings.Config("realsync")
	config.Endpoint = os.Getenv("TRISEAL_LINE")
	made, err := triseal.New(config)
	check(t, err)
	t.Cleanup(func() { _ = made.Close() })
	return made
}

// crm is a connection of one test.
type crm struct {
	*testing.T
	name string
}

func consented(t *testing.T) crm { return crm{t, "shared.go-" + strings.ToLower(t.Name())} }

// stored is one that realsync has stored.
func stored(t *testing.T, by *triseal.Client) crm {
	t.Helper()
	made := consented(t)
	_, err := by.StoreConnection(context.Background(), customer, made.name, made.consent(), triseal.StoreOptions{})
	check(t, err)
	return made
}

func (c crm) consent() []byte {
	return salesforce(c.T, "/admin/connections", map[string]string{"id": c.name})
}

func (c crm) expire() { salesforce(c.T, "/admin/expire", map[string]string{"id": c.name}) }

func (c crm) faults(kinds ...string) {
	faults := []map[string]any{}
	for _, kind := range kinds {
		faults = append(faults, map[string]any{"kind": kind, "seconds": map[string]float64{"slow": 1.5, "revoke_slow": 1.5, "stalled": 15}[kind]})
	}
	salesforce(c.T, "/admin/faults", map[string]any{"connection": c.name, "faults": faults})
}

// seen compares what Salesforce has seen of it.
func (c crm) seen(wanted map[string]any) {
	c.Helper()
	said, err := surroundings.Get(os.Getenv("SALESFORCE_URL") + "/admin/report")
	check(c.T, err)
	var report struct{ Connections map[string]map[string]any }
	check(c.T, json.Unmarshal(said, &report))
	for name, value := range wanted {
		if found := report.Connections[c.name][name]; !reflect.DeepEqual(found, value) {
			c.Errorf("%s: %v, not %v", name, found, value)
		}
	}
}

func (c crm) call(by *triseal.Client) {
	c.Helper()
	check(c.T, by.CallWithToken(context.Background(), customer, c.name, limits))
}

// isRefused finds that Salesforce does not refresh, and says something like this of it.
func (c crm) isRefused(by *triseal.Client, saying string) {
	c.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	var failed *triseal.SalesforceError
	err := by.CallWithToken(ctx, customer, c.name, limits)
	if !errors.As(err, &failed) || !strings.Contains(failed.Code+" "+failed.Description, saying) {
		c.Fatal(err)
	}
}

// refused has the reason of a refusal.
func refused(t *testing.T, err error, reason string) {
	t.Helper()
	var found *triseal.Error
	if !errors.As(err, &found) || found.Reason != reason {
		t.Fatalf("%v, not %s", err, reason)
	}
}

func TestAConnectionIsStoredOnceAndReadByAnotherProduct(t *testing.T) {
	sync, task, ctx := client(t, "realsync"), client(t, "realtask"), context.Background()
	crm := consented(t)
	said := crm.consent()
	options := triseal.StoreOptions{IfRevision: new(uint64), IdempotencyKey: "consent-" + crm.name}
	for range 2 {
		credential, err := sync.StoreConnection(ctx, customer, crm.name, said, options)
		check(t, err)
		if credential.GetRevision() != 1 || credential.GetRefreshTime() == nil {
			t.Fatal(credential)
		}
	}
	_, err := sync.StoreConnection(ctx, customer, crm.name, crm.consent(), triseal.StoreOptions{IfRevision: new(uint64)})
	refused(t, err, "CREDENTIAL_EXISTS")
	var answer map[string]string
	check(t, json.Unmarshal(said, &answer))
	check(t, task.CallWithToken(ctx, customer, crm.name, func(_ context.Context, token, url string) error {
		if token != answer["access_token"] || url != answer["instance_url"] {
			t.Error("other tokens")
		}
		return nil
	}))
}

func TestWhatPolicyRefusesIsSaidAtOnce(t *testing.T) {
	err := client(t, "realtask").CallWithToken(context.Background(), customer, "realsync.crm", limits)
	refused(t, err, "NOT_PERMITTED")
}

func TestADeadTokenIsRefreshedAndTheCallMadeAgain(t *testing.T) {
	sync := client(t, "realsync")
	crm := stored(t, sync)
	crm.call(sync)
	for deaths := 1.0; deaths <= 2; deaths++ {
		crm.expire()
		crm.call(sync)
		crm.seen(map[string]any{"deaths": deaths, "refreshes": deaths, "reuses": 0.0})
	}
}

func TestWhatSomebodyElseHasRefreshedIsTaken(t *testing.T) {
	sync, task := client(t, "realsync"), client(t, "realtask")
	crm := stored(t, sync)
	crm.expire()
	calls := 0
	check(t, sync.CallWithToken(context.Background(), customer, crm.name, func(ctx context.Context, token, url string) error {
		if calls++; calls == 1 {
			crm.call(task)
		}
		return limits(ctx, token, url)
	}))
	crm.seen(map[string]any{"deaths": 1.0, "refreshes": 1.0})
}

func TestThoseWhoWaitGetWhatOneBringsEvenFromAnotherService(t *testing.T) {
	products := []*triseal.Client{client(t, "realsync"), client(t, "realtask")}
	crm := stored(t, products[0])
	crm.faults("slow")
	crm.expire()
	var calls sync.WaitGroup
	for number := range 8 {
		calls.Go(func() {
			if err := products[number%2].CallWithToken(context.Background(), customer, crm.name, limits); err != nil {
				t.Error(err)
			}
		})
	}
	time.Sleep(500 * time.Millisecond)
	drainAndRestart(t)
	calls.Wait()
	crm.seen(map[string]any{"deaths": 1.0, "refreshes": 1.0, "reuses": 0.0})
}

func TestASalesforceThatIsAwayForAMomentIsAskedAgain(t *testing.T) {
	sync := client(t, "realsync")
	crm := stored(t, sync)
	crm.faults("unavailable", "odd")
	crm.expire()
	crm.call(sync)
	crm.seen(map[string]any{"refreshes": 1.0, "reuses": 0.0})
}

func TestTokensAreKeptThoughWhatIsBesideThemIsRefused(t *testing.T) {
	sync := client(t, "realsync")
	crm := stored(t, sync)
	crm.faults("unstorable")
	for refreshes := 1.0; refreshes <= 2; refreshes++ {
		crm.expire()
		crm.call(sync)
		crm.seen(map[string]any{"refreshes": refreshes, "reuses": 0.0})
	}
}

func TestARefusalThatIsNotTheTokensFaultEndsNoConnection(t *testing.T) {
	sync, task := client(t, "realsync"), client(t, "realtask")
	crm := stored(t, sync)
	crm.expire()
	crm.faults("restricted")
	crm.isRefused(sync, "ip restricted")
	config := surroundings.Config("realsync")
	config.App.ClientSecret = ""
	unknown, err := triseal.New(config)
	check(t, err)
	defer unknown.Close()
	crm.isRefused(unknown, "invalid_client")
	crm.call(task)
	crm.seen(map[string]any{"refreshes": 1.0, "reuses": 0.0})
}

func TestASalesforceThatIsNotThereKeepsNobodyWaiting(t *testing.T) {
	sync, task := client(t, "realsync"), client(t, "realtask")
	crm := consented(t)
	// Nobody listens there.
	options := triseal.StoreOptions{TokenURL: "http://127.0.0.1:2/services/oauth2/token"}
	_, err := sync.StoreConnection(context.Background(), customer, crm.name, crm.consent(), options)
	check(t, err)
	crm.expire()
	for _, who := range []*triseal.Client{sync, task} {
		crm.isRefused(who, "")
	}
}

func TestWhatIsInDoubtLetsTheLeaseLapse(t *testing.T) {
	sync, task, ctx := client(t, "realsync"), client(t, "realtask"), context.Background()
	unread, lost := stored(t, sync), crm{t, "shared.go-lost"}
	_, err := sync.StoreConnection(ctx, customer, lost.name, lost.consent(), triseal.StoreOptions{})
	check(t, err)
	found := map[string]crm{"lost_before": unread, "lost_after": lost}
	for _, fault := range []string{"lost_before", "lost_after", "cut", "stalled", "bad_gateway", "busy"} {
		crm, known := found[fault]
		if !known {
			crm.T, crm.name = t, "shared.go-"+fault
			_, err := sync.StoreConnection(ctx, customer, crm.name, crm.consent(), triseal.StoreOptions{})
			check(t, err)
		}
		crm.faults(fault)
		crm.expire()
		crm.isRefused(sync, "")
		short, cancel := context.WithTimeout(ctx, 2*time.Second)
		refused(t, task.CallWithToken(short, customer, crm.name, limits), "REFRESH_IN_PROGRESS")
		cancel()
	}
	// 60 s of lease and 65 s more. What Salesforce had not read is refreshed then.
	long, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	check(t, task.CallWithToken(long, customer, unread.name, limits))
	unread.seen(map[string]any{"refreshes": 1.0, "reuses": 0.0})
	// What it had is found out once, and the customer consents again.
	for _, who := range []*triseal.Client{task, sync} {
		if err := who.CallWithToken(ctx, customer, lost.name, limits); !errors.Is(err, triseal.ErrNeedsReauth) {
			t.Fatal(err)
		}
	}
	lost.seen(map[string]any{"refreshes": 1.0, "reuses": 1.0, "revoked": true})
	_, err = sync.StoreConnection(ctx, customer, lost.name, lost.consent(), triseal.StoreOptions{})
	check(t, err)
	lost.call(task)
}

func TestAllReplicasAreUsedAndOneThatDiesIsNotMissed(t *testing.T) {
	config := surroundings.Config("realsync")
	config.Endpoint = os.Getenv("REPLICAS_TARGET")
	both, err := triseal.New(config)
	check(t, err)
	defer both.Close()
	crm := consented(t)
	said := crm.consent()
	// They share no store: each takes it once.
	end := time.Now().Add(30 * time.Second)
	for taken := 0; taken < 2; {
		_, err := both.StoreConnection(context.Background(), customer, crm.name, said, triseal.StoreOptions{IfRevision: new(uint64)})
		if err == nil {
			taken++
			continue
		}
		refused(t, err, "CREDENTIAL_EXISTS")
		if time.Now().After(end) {
			t.Fatal("one of them is not used")
		}
	}
	order(t, "/kill-a-replica")
	for range 20 {
		crm.call(both)
	}
}

func TestAServiceThatIsKilledWhileSalesforceAnswersLosesNoTokens(t *testing.T) {
	sync := client(t, "realsync")
	crm := stored(t, sync)
	crm.faults("slow")
	crm.expire()
	killed := make(chan struct{})
	time.AfterFunc(500*time.Millisecond, func() {
		defer close(killed)
		killAndRestart(t)
	})
	crm.call(sync)
	<-killed
	killAndRestart(t)
	crm.call(sync)
	crm.seen(map[string]any{"deaths": 1.0, "refreshes": 1.0, "reuses": 0.0})
}

func TestACallersEndDoesNotEndARefresh(t *testing.T) {
	sync := client(t, "realsync")
	crm := stored(t, sync)
	crm.faults("slow")
	crm.expire()
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(500*time.Millisecond, cancel)
	if err := sync.CallWithToken(ctx, customer, crm.name, limits); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	crm.call(sync)
	crm.seen(map[string]any{"refreshes": 1.0, "reuses": 0.0})
}

func TestALeaseOfWhichNobodyKnowsIsGivenBack(t *testing.T) {
	far, task := far(t), client(t, "realtask")
	crm := stored(t, task)
	ctx, cancel := context.WithCancel(context.Background())
	err := far.CallWithToken(ctx, customer, crm.name, func(context.Context, string, string) error {
		crm.expire()
		order(t, "/mute")
		time.AfterFunc(500*time.Millisecond, cancel)
		return triseal.ErrUnauthorized
	})
	order(t, "/unmute")
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	crm.call(task)
	crm.seen(map[string]any{"refreshes": 1.0, "reuses": 0.0})
}

func TestClosingWaitsForARefreshThatIsUnderWay(t *testing.T) {
	task, closing := client(t, "realtask"), client(t, "realsync")
	crm := stored(t, task)
	crm.faults("slow")
	crm.expire()
	called := make(chan error)
	go func() { called <- closing.CallWithToken(context.Background(), customer, crm.name, limits) }()
	time.Sleep(700 * time.Millisecond)
	check(t, closing.Close())
	<-called
	crm.call(task)
	crm.seen(map[string]any{"deaths": 1.0, "refreshes": 1.0, "reuses": 0.0})
}

func TestA401ThatIsNoTokensFaultEnds(t *testing.T) {
	sync := client(t, "realsync")
	crm := stored(t, sync)
	err := sync.CallWithToken(context.Background(), customer, crm.name, func(context.Context, string, string) error {
		return fmt.Errorf("limits: %w", triseal.ErrUnauthorized)
	})
	if !errors.Is(err, triseal.ErrUnauthorized) {
		t.Fatal(err)
	}
	crm.seen(map[string]any{"refreshes": 2.0, "reuses": 0.0})
}

func TestDisconnectingRevokesAndErases(t *testing.T) {
	sync, task, ctx := client(t, "realsync"), client(t, "realtask"), context.Background()
	crm := stored(t, sync)
	for _, wanted := range []bool{true, false} {
		revoked, err := sync.Disconnect(ctx, customer, crm.name)
		check(t, err)
		if revoked != wanted {
			t.Fatal(revoked)
		}
	}
	crm.seen(map[string]any{"revoked": true})
	refused(t, task.CallWithToken(ctx, customer, crm.name, limits), "CREDENTIAL_NOT_FOUND")
}

func TestWhatIsRevokedIsErasedHoweverLongItTakes(t *testing.T) {
	sync, far := client(t, "realsync"), far(t)
	crm := stored(t, sync)
	crm.faults("revoke_slow")
	crm.call(far)
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	time.AfterFunc(700*time.Millisecond, func() { order(t, "/mute") })
	unmuted := make(chan struct{})
	time.AfterFunc(3*time.Second, func() {
		defer close(unmuted)
		order(t, "/unmute")
	})
	revoked, err := far.Disconnect(ctx, customer, crm.name)
	<-unmuted
	if err != nil || !revoked {
		t.Fatal(revoked, err)
	}
	revoked, err = sync.Disconnect(context.Background(), customer, crm.name)
	if err != nil || revoked {
		t.Fatal("something was left: ", err)
	}
}

func TestWhatIsNotRevokedIsLeftAsItWas(t *testing.T) {
	sync, task := client(t, "realsync"), client(t, "realtask")
	crm := stored(t, sync)
	crm.faults("revoke_unavailable")
	var failed *triseal.SalesforceError
	if _, err := sync.Disconnect(context.Background(), customer, crm.name); !errors.As(err, &failed) {
		t.Fatal(err)
	}
	crm.expire()
	crm.call(task)
	crm.seen(map[string]any{"refreshes": 1.0, "revoked": false})
}

func TestACertificateThatIsExchangedIsTaken(t *testing.T) {
	ctx, folder, crm := context.Background(), t.TempDir(), crm{t, "realsync.go"}
	replace := func(file, by string) {
		octets, err := os.ReadFile(os.Getenv("TRISEAL_CERTIFICATES") + "/" + by)
		check(t, err)
		check(t, os.WriteFile(folder+"/new", octets, 0o600))
		check(t, os.Rename(folder+"/new", folder+"/"+file))
	}
	exchange := func(caller string) {
		replace("own.pem", caller+".pem")
		replace("own.key", caller+".key")
	}
	exchange("realsync")
	// A certificate, but not the CA's.
	replace("ca.pem", "realsync.pem")
	config := surroundings.Config("realsync")
	config.CA, config.Certificate, config.Key = folder+"/ca.pem", folder+"/own.pem", folder+"/own.key"
	changing, err := triseal.New(config)
	check(t, err)
	defer changing.Close()
	short, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	refused(t, changing.CallWithToken(short, customer, crm.name, limits), "")
	replace("ca.pem", "ca.pem")
	_, err = changing.StoreConnection(ctx, customer, crm.name, crm.consent(), triseal.StoreOptions{})
	check(t, err)
	crm.call(changing)
	exchange("realtask")
	// A new connection.
	killAndRestart(t)
	refused(t, changing.CallWithToken(ctx, customer, crm.name, limits), "NOT_PERMITTED")
}

func TestNothingPrintsASecret(t *testing.T) {
	app := triseal.ConnectedApp{ClientID: "test", ClientSecret: "app-secret"}
	config := triseal.Config{App: app}
	sync := client(t, "realsync")
	_, malformed := sync.StoreConnection(context.Background(), customer, "shared.x", []byte(`{"access_token": "secret`), triseal.StoreOptions{})
	for _, value := range []any{app, config, sync, malformed} {
		if text := fmt.Sprintf("%v %+v %#v", value, value, value); strings.Contains(text, "secret") {
			t.Error(text)
		}
	}
}
