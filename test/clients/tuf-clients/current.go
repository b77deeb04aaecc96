package main

import (
	"fmt"
	"path/filepath"

	"github.com/theupdateframework/go-tuf/v2/metadata/config"
	"github.com/theupdateframework/go-tuf/v2/metadata/updater"
)

// current does with go-tuf v2 what sigstore-go does for cosign (pkg/tuf/client.go): the same settings, the same places,
// and the cached root.json as the root to start from.
func current(request Request) (Answer, error) {
	root, err := rootFor(request, filepath.Join(request.State, "root.json"))
	if err != nil {
		return Answer{}, err
	}
	settings, err := config.New(request.Mirror, root)
	if err != nil {
		return Answer{}, err
	}
	settings.LocalMetadataDir = request.State
	settings.LocalTargetsDir = filepath.Join(request.State, "targets")
	client, err := updater.New(settings)
	if err != nil {
		return Answer{}, err
	}
	client.UnsafeSetRefTime(request.now())
	if err := client.Refresh(); err != nil {
		return Answer{}, err
	}
	answer := Answer{Targets: map[string]string{}}
	for _, name := range request.Targets {
		info, err := client.GetTargetInfo(name)
		if err != nil {
			return Answer{}, fmt.Errorf("target %s: %w", name, err)
		}
		path, bytes, err := client.FindCachedTarget(info, "")
		if err == nil && path == "" {
			_, bytes, err = client.DownloadTarget(info, "", "")
		}
		if err != nil {
			return Answer{}, fmt.Errorf("target %s: %w", name, err)
		}
		answer.Targets[name] = digest(bytes)
	}
	trusted := client.GetTrustedMetadataSet()
	answer.Versions = map[string]int64{
		"root":      trusted.Root.Signed.Version,
		"timestamp": trusted.Timestamp.Signed.Version,
		"snapshot":  trusted.Snapshot.Signed.Version,
		"targets":   trusted.Targets["targets"].Signed.Version,
	}
	return answer, nil
}
