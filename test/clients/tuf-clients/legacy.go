package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path/filepath"
	"time"

	"github.com/theupdateframework/go-tuf/client"
	leveldbstore "github.com/theupdateframework/go-tuf/client/leveldbstore"
	"github.com/theupdateframework/go-tuf/verify"
)

// legacy does with go-tuf 0.7 what sigstore/sigstore does for gitsign and Kyverno (pkg/tuf/client.go): its state in
// tuf.db, and every target taken that targets.json names.
func legacy(request Request) (Answer, error) {
	verify.IsExpired = func(expires time.Time) bool { return !request.now().Before(expires) }
	store, err := leveldbstore.FileLocalStore(filepath.Join(request.State, "tuf.db"))
	if err != nil {
		return Answer{}, err
	}
	defer store.Close()
	remote, err := client.HTTPRemoteStore(request.Mirror, nil, nil)
	if err != nil {
		return Answer{}, err
	}
	held, err := store.GetMeta()
	if err != nil {
		return Answer{}, err
	}
	tuf := client.NewClient(store, remote)
	if _, ok := held["root.json"]; !ok {
		root, err := rootFor(request, filepath.Join(request.State, "none"))
		if err != nil {
			return Answer{}, err
		}
		if err := tuf.Init(root); err != nil {
			return Answer{}, err
		}
	}
	if _, err := tuf.Update(); err != nil {
		return Answer{}, err
	}
	answer := Answer{Targets: map[string]string{}}
	for _, name := range request.Targets {
		var target destination
		if err := tuf.Download(name, &target); err != nil {
			return Answer{}, fmt.Errorf("target %s: %w", name, err)
		}
		answer.Targets[name] = digest(target.Bytes())
	}
	held, err = store.GetMeta()
	if err != nil {
		return Answer{}, err
	}
	answer.Versions = map[string]int64{}
	for _, role := range []string{"root", "timestamp", "snapshot", "targets"} {
		var metadata struct {
			Signed struct{ Version int64 }
		}
		if err := json.Unmarshal(held[role+".json"], &metadata); err != nil {
			return Answer{}, fmt.Errorf("%s in the store: %w", role, err)
		}
		answer.Versions[role] = metadata.Signed.Version
	}
	return answer, nil
}

type destination struct{ bytes.Buffer }

func (target *destination) Delete() error {
	target.Reset()
	return nil
}
