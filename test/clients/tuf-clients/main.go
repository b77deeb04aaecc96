// Two TUF clients that Chancery did not write: go-tuf v2, which is what cosign and policy-controller use, and go-tuf
// 0.7, the legacy client of gitsign and Kyverno. One request a line on standard input, one answer a line on standard
// output. Each request is a client of its own that knows only what lies in its state folder. The one thing that the
// programs around these libraries cannot do: a request may state the time.
package main

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"time"
)

// Request asks one client to refresh from a mirror and to fetch targets.
type Request struct {
	// Client is "go-tuf v2" or "go-tuf 0.7".
	Client string `json:"client"`
	// State is the client's folder; made if it is not there.
	State string `json:"state"`
	// Root is the root.json that a client without state is given.
	Root string `json:"root"`
	// Pinned starts every run from Root, as cosign does with TUF_ROOT_JSON, not from the root that is cached.
	Pinned  bool     `json:"pinned"`
	Mirror  string   `json:"mirror"`
	Targets []string `json:"targets"`
	// NowMs is the time since the epoch that expiry is compared with; 0: that of the machine.
	NowMs int64 `json:"nowMs"`
}

// Answer holds what the client has now, or its own words of refusal.
type Answer struct {
	Versions map[string]int64 `json:"versions,omitempty"`
	// Targets has the SHA-256 of each target in hex.
	Targets map[string]string `json:"targets,omitempty"`
	Error   string            `json:"error,omitempty"`
}

func (request Request) now() time.Time {
	if request.NowMs == 0 {
		return time.Now()
	}
	return time.UnixMilli(request.NowMs)
}

func main() {
	// A client is a process that ends: it has no connection from before.
	http.DefaultTransport.(*http.Transport).DisableKeepAlives = true
	requests := bufio.NewScanner(os.Stdin)
	requests.Buffer(nil, 1<<20)
	for requests.Scan() {
		var request Request
		if err := json.Unmarshal(requests.Bytes(), &request); err != nil {
			fmt.Fprintln(os.Stderr, "tuf-clients: a request cannot be read:", err)
			os.Exit(2)
		}
		answer, err := serve(request)
		if err != nil {
			answer = Answer{Error: err.Error()}
		}
		line, err := json.Marshal(answer)
		if err != nil {
			fmt.Fprintln(os.Stderr, "tuf-clients:", err)
			os.Exit(2)
		}
		fmt.Println(string(line))
	}
}

func serve(request Request) (Answer, error) {
	if err := os.MkdirAll(request.State, 0o700); err != nil {
		return Answer{}, err
	}
	switch request.Client {
	case "go-tuf v2":
		return current(request)
	case "go-tuf 0.7":
		return legacy(request)
	default:
		return Answer{}, fmt.Errorf("no client %q", request.Client)
	}
}

// rootFor is the root that the client trusts: the one it has cached, else the one it was given.
func rootFor(request Request, cached string) ([]byte, error) {
	root, err := os.ReadFile(cached)
	if request.Pinned || os.IsNotExist(err) {
		return os.ReadFile(request.Root)
	}
	return root, err
}

func digest(bytes []byte) string {
	sum := sha256.Sum256(bytes)
	return hex.EncodeToString(sum[:])
}
