// Worker is one of the four languages of `clients/test mixed`: workers of three products on shared connections. Prints what came of it.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"datasert.com/triseal/internal/surroundings"
)

type outcome struct {
	Calls    int      `json:"calls"`
	Failures []string `json:"failures"`
}

func main() {
	seconds, connections, each := number("SECONDS"), int(number("CONNECTIONS")), int(number("WORKERS"))
	end := time.Now().Add(time.Duration(seconds * float64(time.Second)))
	var workers sync.WaitGroup
	var lock sync.Mutex
	total := outcome{Failures: []string{}}
	for _, caller := range strings.Fields(os.Getenv("CALLERS")) {
		client, err := surroundings.NewClient(caller)
		if err != nil {
			log.Fatal(err)
		}
		for range each {
			workers.Go(func() {
				for time.Now().Before(end) {
					name := fmt.Sprintf("shared.connection-%d", rand.IntN(connections))
					err := client.CallWithToken(context.Background(), surroundings.Customer, name, surroundings.Limits)
					lock.Lock()
					if err != nil {
						total.Failures = append(total.Failures, err.Error())
					} else {
						total.Calls++
					}
					lock.Unlock()
					time.Sleep(rand.N(200 * time.Millisecond))
				}
			})
		}
	}
	workers.Wait()
	if err := json.NewEncoder(os.Stdout).Encode(total); err != nil {
		log.Fatal(err)
	}
}

func number(variable string) float64 {
	found, err := strconv.ParseFloat(os.Getenv(variable), 64)
	if err != nil {
		log.Fatalf("%s: %v", variable, err)
	}
	return found
}
