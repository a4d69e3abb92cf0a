// Command kubernetes is as much of kube-apiserver as encrypts what goes to etcd, of Kubernetes' own packages and
// nothing else: EncryptionConfiguration, envelope transformers, health checks, gRPC clients.
//
// It reads orders from standard input, one JSON object per line, and answers each with one line.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/apiserver/pkg/util/feature"
)

// order is one line of standard input: what to do, and the parameters of that.
type order struct {
	Do string `json:"do"`

	// Of the apiserver's own machinery.
	Config   string `json:"config"`
	Resource string `json:"resource"`
	Etcd     string `json:"etcd"`
	Count    int    `json:"count"`
	Workers  int    `json:"workers"`

	// Of a client alone.
	Name        string            `json:"name"`
	API         string            `json:"api"`
	Endpoint    string            `json:"endpoint"`
	Timeout     string            `json:"timeout"`
	Plaintext   []byte            `json:"plaintext"`
	Ciphertext  []byte            `json:"ciphertext"`
	UID         string            `json:"uid"`
	KeyID       string            `json:"key_id"`
	Annotations map[string][]byte `json:"annotations"`

	// Of manifests.
	Path string `json:"path"`
}

// answer is one line of standard output. OK is what the order brought; Code and Message are those of the gRPC status
// that it failed with, Unknown where it was no such status.
type answer struct {
	OK      any     `json:"ok,omitempty"`
	Code    string  `json:"code,omitempty"`
	Message string  `json:"message,omitempty"`
	Millis  float64 `json:"millis"`
}

type orders map[string]func(context.Context, *order) (any, error)

func main() {
	if err := feature.DefaultMutableFeatureGate.Set("KMSv1=true"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	server, clients := &apiserver{}, clients{}
	known := orders{
		"load":    server.load,
		"health":  server.health,
		"write":   server.write,
		"read":    server.read,
		"open":    clients.open,
		"status":  clients.status,
		"encrypt": clients.encrypt,
		"decrypt": clients.decrypt,
		"pod":     pod,
	}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, lineBytesMax)
	replies := json.NewEncoder(os.Stdout)
	for lines.Scan() {
		if err := replies.Encode(known.obey(ctx, lines.Bytes())); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}

func (known orders) obey(ctx context.Context, line []byte) answer {
	begun := time.Now()
	ok, err := known.find(ctx, line)
	millis := float64(time.Since(begun).Microseconds()) / 1000
	if err != nil {
		return answer{Code: code(err), Message: err.Error(), Millis: millis}
	}
	return answer{OK: ok, Millis: millis}
}

func (known orders) find(ctx context.Context, line []byte) (any, error) {
	var o order
	if err := json.Unmarshal(line, &o); err != nil {
		return nil, err
	}
	do, found := known[o.Do]
	if !found {
		return nil, fmt.Errorf("nothing is known of %q", o.Do)
	}
	return do(ctx, &o)
}

// code finds the gRPC code in err, which the apiserver's own packages often wrap as mere text.
func code(err error) string {
	var wrapped interface{ GRPCStatus() *status.Status }
	if errors.As(err, &wrapped) {
		return wrapped.GRPCStatus().Code().String()
	}
	if found := codeInText.FindStringSubmatch(err.Error()); found != nil {
		return found[1]
	}
	return codes.Unknown.String()
}

var codeInText = regexp.MustCompile(`rpc error: code = (\w+)`)

const lineBytesMax = 1 << 20
