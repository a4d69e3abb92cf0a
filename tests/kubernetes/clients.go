package main

import (
	"context"
	"fmt"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/storage/value/encrypt/envelope"
	"k8s.io/apiserver/pkg/storage/value/encrypt/envelope/kmsv2"
	kmstypes "k8s.io/apiserver/pkg/storage/value/encrypt/envelope/kmsv2/v2"
	"k8s.io/kms/pkg/service"
	"sigs.k8s.io/yaml"
)

// client is one of kube-apiserver's gRPC clients; v1 or v2 is nil.
type client struct {
	v1 envelope.Service
	v2 service.Service
}

// clients are those that are open, each with its own connection.
type clients map[string]client

type encrypted struct {
	Ciphertext  []byte            `json:"ciphertext"`
	KeyID       string            `json:"key_id,omitempty"`
	Annotations map[string][]byte `json:"annotations,omitempty"`
}

// statuses sums up what Status said: each answer, and how often.
type statuses struct {
	Version string  `json:"version"`
	Healthz string  `json:"healthz"`
	KeyID   string  `json:"key_id"`
	Same    int     `json:"same"`
	Slowest float64 `json:"slowest_millis"`
}

func (c clients) open(ctx context.Context, o *order) (any, error) {
	timeout, err := time.ParseDuration(o.Timeout)
	if err != nil {
		return nil, err
	}
	var opened client
	switch o.API {
	case "v1":
		opened.v1, err = envelope.NewGRPCService(ctx, o.Endpoint, timeout)
	case "v2":
		opened.v2, err = kmsv2.NewGRPCService(ctx, o.Endpoint, o.Name, timeout)
	default:
		err = fmt.Errorf("no such version: %q", o.API)
	}
	if err != nil {
		return nil, err
	}
	c[o.Name] = opened
	return o.Name, nil
}

// status asks Count times and expects one answer.
func (c clients) status(ctx context.Context, o *order) (any, error) {
	var seen statuses
	for range max(o.Count, 1) {
		begun := time.Now()
		said, err := c[o.Name].v2.Status(ctx)
		if err != nil {
			return nil, err
		}
		if _, err := kmsv2.ValidateKeyID(said.KeyID); err != nil {
			return nil, err
		}
		if seen.Same > 0 && (seen.KeyID != said.KeyID || seen.Healthz != said.Healthz || seen.Version != said.Version) {
			return nil, fmt.Errorf("after %d times %v: %v", seen.Same, seen, *said)
		}
		seen.Version, seen.Healthz, seen.KeyID = said.Version, said.Healthz, said.KeyID
		seen.Same++
		seen.Slowest = max(seen.Slowest, float64(time.Since(begun).Microseconds())/1000)
	}
	return seen, nil
}

func (c clients) encrypt(ctx context.Context, o *order) (any, error) {
	if v1 := c[o.Name].v1; v1 != nil {
		ciphertext, err := v1.Encrypt(o.Plaintext)
		return encrypted{Ciphertext: ciphertext}, err
	}
	made, err := c[o.Name].v2.Encrypt(ctx, o.UID, o.Plaintext)
	if err != nil {
		return nil, err
	}
	stored := kmstypes.EncryptedObject{
		EncryptedData:          []byte{0},
		KeyID:                  made.KeyID,
		EncryptedDEKSource:     made.Ciphertext,
		Annotations:            made.Annotations,
		EncryptedDEKSourceType: kmstypes.EncryptedDEKSourceType_HKDF_SHA256_XNONCE_AES_GCM_SEED,
	}
	if err := kmsv2.ValidateEncryptedObject(&stored); err != nil {
		return nil, err
	}
	return encrypted{Ciphertext: made.Ciphertext, KeyID: made.KeyID, Annotations: made.Annotations}, nil
}

func (c clients) decrypt(ctx context.Context, o *order) (any, error) {
	if v1 := c[o.Name].v1; v1 != nil {
		return v1.Decrypt(o.Ciphertext)
	}
	asked := &service.DecryptRequest{Ciphertext: o.Ciphertext, KeyID: o.KeyID, Annotations: o.Annotations}
	return c[o.Name].v2.Decrypt(ctx, o.UID, asked)
}

// pod reads a manifest as strictly as the apiserver does where it is told to validate.
func pod(_ context.Context, o *order) (any, error) {
	text, err := os.ReadFile(o.Path)
	if err != nil {
		return nil, err
	}
	var read corev1.Pod
	if err := yaml.UnmarshalStrict(text, &read); err != nil {
		return nil, err
	}
	if read.Kind != "Pod" || read.APIVersion != "v1" || len(read.Spec.Containers) == 0 {
		return nil, fmt.Errorf("%s is no Pod of v1 with containers", o.Path)
	}
	return read.Name, nil
}
