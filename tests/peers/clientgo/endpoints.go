//go:build !lease

package main

import (
	"errors"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// newLock takes the Endpoints half out of client-go's lock for migrations, the only place where it is still reachable.
func newLock(client kubernetes.Interface, namespace, name, identity string) (resourcelock.Interface, error) {
	both, err := resourcelock.New(resourcelock.EndpointsLeasesResourceLock, namespace, name,
		client.CoreV1(), client.CoordinationV1(), resourcelock.ResourceLockConfig{Identity: identity})
	if err != nil {
		return nil, err
	}
	multi, ok := both.(*resourcelock.MultiLock)
	if !ok {
		return nil, errors.New("client-go has no Endpoints lock in this version")
	}
	return multi.Primary, nil
}
