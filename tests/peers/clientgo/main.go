// A leader elector made of client-go alone: a peer for mixed elections and for measurements.
//
// It takes the flags of the stock image and answers GET / as that image does. The lease timing is the stock image's too:
// renew deadline ttl/2, retry period ttl/4.
//
// It is built twice. go.mod has client-go v0.26, the last version that has the Endpoints lock; lease.mod, with the build
// tag `lease`, has today's version, which has Leases only.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"log"
	"net/http"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/leaderelection"
)

func main() {
	host, err := os.Hostname()
	if err != nil {
		log.Fatal(err)
	}
	election := flag.String("election", "", "name of the election (required)")
	namespace := flag.String("election-namespace", "default", "namespace of the lock object")
	id := flag.String("id", host, "identity of this candidate")
	ttl := flag.Duration("ttl", 10*time.Second, "lease duration")
	address := flag.String("http", "", "address that answers who leads; none when empty")
	kubeconfig := flag.String("kubeconfig", os.Getenv("KUBECONFIG"), "kubeconfig file; in-cluster configuration when empty")
	release := flag.Bool("release-on-cancel", false, "give the lease up on SIGTERM")
	flag.Parse()
	if *election == "" {
		log.Fatal("--election is required")
	}

	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	if err != nil {
		log.Fatal(err)
	}
	lock, err := newLock(kubernetes.NewForConfigOrDie(config), *namespace, *election, *id)
	if err != nil {
		log.Fatal(err)
	}

	var leader atomic.Value
	leader.Store("")
	if *address != "" {
		go serve(*address, &leader)
	}

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	// RunOrDie returns when the lease was lost; the stock image then takes part again.
	for ctx.Err() == nil {
		leaderelection.RunOrDie(ctx, leaderelection.LeaderElectionConfig{
			Lock:            lock,
			LeaseDuration:   *ttl,
			RenewDeadline:   *ttl / 2,
			RetryPeriod:     *ttl / 4,
			ReleaseOnCancel: *release,
			Callbacks: leaderelection.LeaderCallbacks{
				OnStartedLeading: func(context.Context) { log.Printf("%s leads", *id) },
				OnStoppedLeading: func() { log.Printf("%s leads no longer", *id) },
				OnNewLeader:      func(identity string) { leader.Store(identity) },
			},
		})
	}
}

func serve(address string, leader *atomic.Value) {
	answer := func(response http.ResponseWriter, _ *http.Request) {
		body, err := json.Marshal(struct {
			Name string `json:"name"`
		}{leader.Load().(string)})
		if err != nil {
			http.Error(response, err.Error(), http.StatusInternalServerError)
			return
		}
		if _, err := response.Write(body); err != nil {
			log.Print(err)
		}
	}
	log.Fatal(http.ListenAndServe(address, http.HandlerFunc(answer)))
}
