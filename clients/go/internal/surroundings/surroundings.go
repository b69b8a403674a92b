// Package surroundings is what the tests and the worker of clients/test share: clients by the environment that it gives, and what is asked
// of its Salesforce.
package surroundings

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"strings"
	"time"

	"datasert.com/triseal"
)

// Customer is one that the service has made.
const Customer = "demo"

var salesforce = &http.Client{Timeout: time.Minute}

// NewClient makes one as a product does.
func NewClient(caller string) (*triseal.Client, error) { return triseal.New(Config(caller)) }

// Config is of one of the replicas, and of this caller.
func Config(caller string) triseal.Config {
	replicas, folder := strings.Fields(os.Getenv("TRISEAL_ENDPOINT")), os.Getenv("TRISEAL_CERTIFICATES")
	return triseal.Config{
		Endpoint:    replicas[rand.IntN(len(replicas))],
		CA:          folder + "/ca.pem",
		Certificate: folder + "/" + caller + ".pem",
		Key:         folder + "/" + caller + ".key",
		App:         triseal.ConnectedApp{ClientID: "test", ClientSecret: "app-secret"},
	}
}

// Limits is a call to Salesforce's API, as a product makes it.
func Limits(ctx context.Context, accessToken, instanceURL string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, instanceURL+"/services/data/v62.0/limits", nil)
	if err != nil {
		return err
	}
	request.Header.Set("authorization", "Bearer "+accessToken)
	response, err := salesforce.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	switch response.StatusCode {
	case http.StatusOK:
		_, err = io.Copy(io.Discard, response.Body)
		return err
	case http.StatusUnauthorized:
		return triseal.ErrUnauthorized
	}
	return fmt.Errorf("Salesforce answered %d", response.StatusCode)
}

// Post asks Salesforce or the control of clients/test for something.
func Post(address string, body any) ([]byte, error) {
	octets, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	return read(salesforce.Post(address, "application/json", bytes.NewReader(octets)))
}

// Get asks Salesforce what it has seen.
func Get(address string) ([]byte, error) { return read(salesforce.Get(address)) }

func read(response *http.Response, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", response.Request.URL, response.Status)
	}
	return io.ReadAll(response.Body)
}
