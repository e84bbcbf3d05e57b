// Checks what the project writes by code of others: signed notes and proofs by golang.org/x/mod/sumdb, whole logs by
// tessera's fsck, everything else by Go's standard library from the format's page.
//
//	proof vectors ../../proof.json     recompute the golden vectors
//	proof judge cases.json             accept or refuse each case, and say which; ends with 1 where one was misjudged
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/bits"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/transparency-dev/tessera/api"
	"github.com/transparency-dev/tessera/client"
	"github.com/transparency-dev/tessera/fsck"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const fsckTimeLimit = 30 * time.Second

// With one worker fsck hangs on a mismatch (tessera 1.0.4).
const fsckWorkers = 16

func main() {
	if len(os.Args) != 3 {
		fail(errors.New("usage: proof vectors|judge FILE"))
	}
	content, err := os.ReadFile(os.Args[2])
	fail(err)
	switch os.Args[1] {
	case "vectors":
		checkVectors(content)
	case "judge":
		judge(content)
	default:
		fail(errors.New("usage: proof vectors|judge FILE"))
	}
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
}

// ---- cases made from a real journal

type step struct {
	Old   int64  `json:"old"`
	Index int64  `json:"index"`
	Leaf  string `json:"leaf"`
	Proof []string
}

type oneCase struct {
	Name      string
	Kind      string // note, consistency, inclusion, log
	Accept    bool
	Verifiers []string
	Notes     []string // the checkpoint, or the older one and the newer one
	Step      step
	Directory string
}

func judge(content []byte) {
	var cases []oneCase
	fail(json.Unmarshal(content, &cases))
	misjudged := 0
	for _, c := range cases {
		err := c.check()
		verdict := "accepted"
		if err != nil {
			verdict = "refused"
		}
		fmt.Printf("%s %s: %v\n", verdict, c.Name, err)
		if (err == nil) != c.Accept {
			misjudged++
		}
	}
	fmt.Printf("judged %d cases, %d not as expected\n", len(cases), misjudged)
	if misjudged > 0 || len(cases) == 0 {
		os.Exit(1)
	}
}

func (c oneCase) check() error {
	keys, err := verifiers(c.Verifiers)
	if err != nil {
		return err
	}
	if c.Kind == "log" {
		return checkLog(c.Directory, keys[0])
	}
	var trees []tlog.Tree
	for _, text := range c.Notes {
		tree, err := openCheckpoint(text, keys)
		if err != nil {
			return err
		}
		trees = append(trees, tree)
	}
	newest := trees[len(trees)-1]
	switch c.Kind {
	case "note":
		return nil
	case "consistency":
		return tlog.CheckTree(hashes(c.Step.Proof), newest.N, newest.Hash, trees[0].N, trees[0].Hash)
	case "inclusion":
		leaf, err := base64.StdEncoding.DecodeString(c.Step.Leaf)
		if err != nil {
			return err
		}
		return tlog.CheckRecord(tlog.RecordProof(hashes(c.Step.Proof)), newest.N, newest.Hash, c.Step.Index, tlog.RecordHash(leaf))
	}
	return fmt.Errorf("no kind of case is called %q", c.Kind)
}

func verifiers(texts []string) ([]note.Verifier, error) {
	var keys []note.Verifier
	for _, text := range texts {
		key, err := note.NewVerifier(text)
		if err != nil {
			return nil, err
		}
		keys = append(keys, key)
	}
	return keys, nil
}

func openCheckpoint(text string, keys []note.Verifier) (tlog.Tree, error) {
	opened, err := note.Open([]byte(text), note.VerifierList(keys...))
	if err != nil {
		return tlog.Tree{}, err
	}
	lines := strings.Split(opened.Text, "\n")
	if len(lines) != 4 {
		return tlog.Tree{}, errors.New("a checkpoint is three lines")
	}
	// The same three lines behind the first one that x/mod knows.
	return tlog.ParseTree([]byte("go.sum database tree\n" + lines[1] + "\n" + lines[2] + "\n"))
}

func checkLog(directory string, key note.Verifier) error {
	ctx, cancel := context.WithTimeout(context.Background(), fsckTimeLimit)
	defer cancel()
	hasher := func(bundle []byte) ([][]byte, error) {
		entries := &api.EntryBundle{}
		if err := entries.UnmarshalText(bundle); err != nil {
			return nil, err
		}
		var found [][]byte
		for _, entry := range entries.Entries {
			hash := tlog.RecordHash(entry)
			found = append(found, hash[:])
		}
		return found, nil
	}
	checker := fsck.New(key.Name(), key, client.FileFetcher{Root: directory}, hasher, fsck.Opts{N: fsckWorkers})
	done := make(chan error, 1)
	go func() { done <- checker.Check(ctx) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func hashes(texts []string) []tlog.Hash {
	found := []tlog.Hash{}
	for _, text := range texts {
		raw, err := hex.DecodeString(text)
		fail(err)
		found = append(found, tlog.Hash(raw))
	}
	return found
}

// ---- golden vectors

type vectors struct {
	Ledger []struct {
		Partition string
		Idx       int64
		Kind      string
		RunID     string  `json:"run_id"`
		SourceID  string  `json:"source_id"`
		SourceSeq int64   `json:"source_seq"`
		Events    int64   `json:"events"`
		Head      *string `json:"head"`
		Offset    int64   `json:"record_offset"`
		Received  int64   `json:"received_us"`
		Leaf      string
		Hash      string
	}
	Journal []struct {
		Kind   string
		AtUs   int64 `json:"at_us"`
		Ranges []struct {
			Partition  string
			First      int64
			Count      int64
			Root       string
			NextOffset int64 `json:"next_offset"`
		}
		Line string
		Leaf string
		Hash string
	}
	Tree struct {
		Size      int64
		Roots     map[string]string
		Inclusion []struct {
			Index, Size int64
			Proof       []string
		}
		Consistency []struct {
			Old, New int64
			Proof    []string
		}
		Tiles map[string]string
	}
	Keys []struct {
		Name, Private, Verifier string
	}
	Checkpoints []struct {
		Size             int64
		Root, Text, Note string
		Keys             int
	}
	Objects []struct {
		First, Size int64
		Content     string
	}
}

var checked, wrong int

func same(what string, found, expected any) {
	checked++
	if fmt.Sprint(found) != fmt.Sprint(expected) {
		wrong++
		fmt.Printf("%s differs: %q is expected, found %q\n", what, fmt.Sprint(expected), fmt.Sprint(found))
	}
}

func t(value string) string { return strconv.Itoa(len(value)) + ":" + value }

func leafHash(leaf string) string {
	hash := tlog.RecordHash([]byte(leaf))
	return hex.EncodeToString(hash[:])
}

// root is RFC 6962's, over hashes in hex.
func root(leaves []string) string {
	switch len(leaves) {
	case 0:
		sum := sha256.Sum256(nil)
		return hex.EncodeToString(sum[:])
	case 1:
		return leaves[0]
	}
	half := 1 << (bits.Len(uint(len(leaves)-1)) - 1)
	pair := hashes([]string{root(leaves[:half]), root(leaves[half:])})
	hash := tlog.NodeHash(pair[0], pair[1])
	return hex.EncodeToString(hash[:])
}

func checkVectors(content []byte) {
	var all vectors
	fail(json.Unmarshal(content, &all))
	checkLedgerAndJournal(all)
	checkTree(all)
	checkNotes(all)
	fmt.Printf("checked %d values, %d differ\n", checked, wrong)
	if wrong > 0 || checked == 0 {
		os.Exit(1)
	}
}

func checkLedgerAndJournal(all vectors) {
	sealed := map[string]int64{}
	for _, row := range all.Ledger {
		head := "-"
		if row.Head != nil {
			head = *row.Head
		}
		leaf := fmt.Sprintf("skillaudit %s 1\n%s %s %d %d %s %d %d\n",
			row.Kind, t(row.RunID), row.SourceID, row.SourceSeq, row.Events, head, row.Offset, row.Received)
		same("ledger leaf", leaf, row.Leaf)
		same("ledger hash", leafHash(leaf), row.Hash)
	}
	for _, entry := range all.Journal {
		leaf := "skillaudit act 1\n" + entry.Line + "\n"
		if entry.Kind == "seal" {
			leaf = fmt.Sprintf("skillaudit seal 1\nat %d\n", entry.AtUs)
			for _, r := range entry.Ranges {
				var part []string
				next := int64(0)
				for _, row := range all.Ledger {
					if row.Partition == r.Partition && row.Idx >= r.First && row.Idx < r.First+r.Count {
						part, next = append(part, row.Hash), row.Offset+1
					}
				}
				same("first row", r.First, sealed[r.Partition])
				sealed[r.Partition] += r.Count
				leaf += fmt.Sprintf("ledger %s %d %d %s %d\n", r.Partition, r.First, len(part), root(part), next)
			}
		}
		same("journal leaf", leaf, entry.Leaf)
		same("journal hash", leafHash(leaf), entry.Hash)
	}
}

func checkTree(all vectors) {
	var leaves []string
	bundles := map[int]*bytes.Buffer{0: {}, 1: {}}
	for number := int64(0); number < all.Tree.Size; number++ {
		leaf := "leaf " + strconv.FormatInt(number, 10)
		leaves = append(leaves, leafHash(leaf))
		bundle := bundles[int(number/256)]
		bundle.Write([]byte{byte(len(leaf) >> 8), byte(len(leaf))})
		bundle.WriteString(leaf)
	}
	for size, expected := range all.Tree.Roots {
		number, err := strconv.Atoi(size)
		fail(err)
		same("root of "+size, root(leaves[:number]), expected)
	}
	for _, p := range all.Tree.Inclusion {
		at := hashes([]string{leaves[p.Index], root(leaves[:p.Size])})
		same("inclusion", tlog.CheckRecord(tlog.RecordProof(hashes(p.Proof)), p.Size, at[1], p.Index, at[0]), error(nil))
	}
	for _, p := range all.Tree.Consistency {
		at := hashes([]string{root(leaves[:p.Old]), root(leaves[:p.New])})
		same("consistency", tlog.CheckTree(hashes(p.Proof), p.New, at[1], p.Old, at[0]), error(nil))
	}
	raw := func(texts ...string) []byte {
		var found []byte
		for _, hash := range hashes(texts) {
			found = append(found, hash[:]...)
		}
		return found
	}
	tiles := map[string][]byte{
		"tile/0/000":            raw(leaves[:256]...),
		"tile/0/001.p/44":       raw(leaves[256:]...),
		"tile/1/000.p/1":        raw(root(leaves[:256])),
		"tile/entries/000":      bundles[0].Bytes(),
		"tile/entries/001.p/44": bundles[1].Bytes(),
	}
	same("tiles", len(all.Tree.Tiles), len(tiles))
	for path, content := range tiles {
		sum := sha256.Sum256(content)
		same(path, hex.EncodeToString(sum[:]), all.Tree.Tiles[path])
	}
}

func checkNotes(all vectors) {
	var keys []note.Verifier
	for _, k := range all.Keys {
		key, err := note.NewVerifier(k.Verifier)
		fail(err)
		keys = append(keys, key)
		signer, err := note.NewSigner(k.Private)
		fail(err)
		same("key id", signer.KeyHash(), key.KeyHash())
		signed, err := note.Sign(&note.Note{Text: all.Checkpoints[0].Text}, signer)
		fail(err)
		_, err = note.Open(signed, note.VerifierList(key))
		same("a pair of keys", err, error(nil))
	}
	for _, c := range all.Checkpoints {
		var leaves []string
		for _, entry := range all.Journal[:c.Size] {
			leaves = append(leaves, entry.Hash)
		}
		found := root(leaves)
		same("journal root", found, c.Root)
		raw, err := hex.DecodeString(found)
		fail(err)
		text := fmt.Sprintf("%s\n%d\n%s\n", all.Keys[0].Name, c.Size, base64.StdEncoding.EncodeToString(raw))
		opened, err := note.Open([]byte(c.Note), note.VerifierList(keys...))
		fail(err)
		same("checkpoint", opened.Text, text)
		same("signatures", len(opened.Sigs), c.Keys)
	}
	for _, o := range all.Objects {
		content := fmt.Sprintf("skillaudit anchor 1\nleaves %d %d\n", o.First, o.Size-o.First)
		for _, entry := range all.Journal[o.First:o.Size] {
			content += t(entry.Leaf) + "\n"
		}
		for _, c := range all.Checkpoints {
			if c.Size == o.Size {
				content += c.Note
			}
		}
		same("anchor object", content, o.Content)
	}
}
