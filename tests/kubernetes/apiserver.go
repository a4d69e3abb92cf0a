package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"sync"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/server/options/encryptionconfig"
	"k8s.io/apiserver/pkg/storage/value"
)

// apiserver is what kube-apiserver makes of its --encryption-provider-config: transformers with their caches, and
// health checks that also follow the key.
type apiserver struct {
	loaded *encryptionconfig.EncryptionConfiguration
}

// written and read say what became of the objects.
type written struct {
	Objects int `json:"objects"`
}

type read struct {
	Objects int `json:"objects"`
	// Stale ones are under another key than writes are now.
	Stale int `json:"stale"`
	// Failed ones could not be decrypted, Altered ones came back as something else.
	Failed  int    `json:"failed"`
	Altered int    `json:"altered"`
	Code    string `json:"code,omitempty"`
	Message string `json:"message,omitempty"`
}

func (a *apiserver) load(ctx context.Context, o *order) (any, error) {
	loaded, err := encryptionconfig.LoadEncryptionConfig(ctx, o.Config, false, "test")
	if err != nil {
		return nil, err
	}
	a.loaded = loaded
	resources := []string{}
	for resource := range loaded.Transformers {
		resources = append(resources, resource.String())
	}
	return resources, nil
}

// health asks what /healthz asks, which is also what a v2 provider's key is followed by.
func (a *apiserver) health(ctx context.Context, _ *order) (any, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "/healthz", nil)
	if err != nil {
		return nil, err
	}
	complaints := map[string]string{}
	for _, check := range a.loaded.HealthChecks {
		if err := check.Check(request); err != nil {
			complaints[check.Name()] = err.Error()
		}
	}
	return complaints, nil
}

// write transforms Count objects and adds what etcd would be given to the file Etcd.
func (a *apiserver) write(ctx context.Context, o *order) (any, error) {
	transformer, err := a.transformer(o.Resource)
	if err != nil {
		return nil, err
	}
	etcd, err := open(o.Etcd)
	if err != nil {
		return nil, err
	}
	first := len(etcd)
	made := make([][]byte, o.Count)
	err = each(o.Workers, o.Count, func(n int) error {
		path := path(o.Resource, first+n)
		sealed, err := transformer.TransformToStorage(ctx, object(path), value.DefaultContext(path))
		made[n] = sealed
		return err
	})
	if err != nil {
		return nil, err
	}
	for n, sealed := range made {
		etcd[path(o.Resource, first+n)] = sealed
	}
	return written{Objects: o.Count}, etcd.save(o.Etcd)
}

// read transforms everything in the file Etcd back and compares it with what was written.
func (a *apiserver) read(ctx context.Context, o *order) (any, error) {
	transformer, err := a.transformer(o.Resource)
	if err != nil {
		return nil, err
	}
	etcd, err := open(o.Etcd)
	if err != nil {
		return nil, err
	}
	paths := []string{}
	for path := range etcd {
		paths = append(paths, path)
	}
	seen, mutex := read{Objects: len(paths)}, sync.Mutex{}
	err = each(o.Workers, len(paths), func(n int) error {
		path := paths[n]
		opened, stale, err := transformer.TransformFromStorage(ctx, etcd[path], value.DefaultContext(path))
		mutex.Lock()
		defer mutex.Unlock()
		switch {
		case err != nil:
			seen.Failed++
			seen.Code, seen.Message = code(err), err.Error()
		case !bytes.Equal(opened, object(path)):
			seen.Altered++
		case stale:
			seen.Stale++
		}
		return nil
	})
	return seen, err
}

func (a *apiserver) transformer(resource string) (value.Transformer, error) {
	found, ok := a.loaded.Transformers[schema.ParseGroupResource(resource)]
	if !ok {
		return nil, fmt.Errorf("the configuration names no %q", resource)
	}
	return found, nil
}

// etcd maps paths to what is stored there.
type etcd map[string][]byte

func open(file string) (etcd, error) {
	stored := etcd{}
	text, err := os.ReadFile(file)
	if os.IsNotExist(err) {
		return stored, nil
	}
	if err != nil {
		return nil, err
	}
	return stored, json.Unmarshal(text, &stored)
}

func (stored etcd) save(file string) error {
	text, err := json.Marshal(stored)
	if err != nil {
		return err
	}
	return os.WriteFile(file, text, 0o600)
}

func path(resource string, number int) string {
	return fmt.Sprintf("/registry/%s/default/object-%05d", resource, number)
}

// object is what is stored at path: no two are alike.
func object(path string) []byte {
	sum := sha256.Sum256([]byte(path))
	return fmt.Appendf(nil, `{"kind":"Secret","metadata":{"name":%q},"data":{"token":"%x"}}`, path, sum)
}

// each calls act with 0 up to count, on so many goroutines, and returns the first error.
func each(workers, count int, act func(int) error) error {
	numbers, failures := make(chan int), make(chan error, max(workers, 1))
	var group sync.WaitGroup
	for range max(workers, 1) {
		group.Go(func() {
			var first error
			for n := range numbers {
				if first == nil {
					first = act(n)
				}
			}
			failures <- first
		})
	}
	for n := range count {
		numbers <- n
	}
	close(numbers)
	group.Wait()
	close(failures)
	for err := range failures {
		if err != nil {
			return err
		}
	}
	return nil
}
