// Recomputes tags and heads of the golden vectors from nothing but the records, and those of redacted runs from nothing but
// what a database keeps of them, with Go's standard library alone: somebody who never saw the project's code can check what
// it writes. Usage: go run main.go ../digests.json
package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
)

type vectors struct {
	Runs []struct {
		Name   string
		Events []struct {
			Seq                       int64
			Header, Digest, Tag, Head string
			Record                    string
		}
	}
	Redacted []struct {
		Name       string
		RunID      string `json:"run_id"`
		Lost       string
		Redactions []place
		RunSalts   []place `json:"run_salts"`
		Events     []struct {
			Stored               stored
			Header, Digest, Head string
		}
	}
}

// place is one row of redactions (with a digest) or of run_salts (with a salt); an event as a whole has no field.
type place struct {
	Seq                 int64
	Field, Digest, Salt string
}

// stored is an event as the columns hold it.
type stored struct {
	Kind                  string
	Seq                   int64
	At                    int64  `json:"at_us"`
	ParentRunID           string `json:"parent_run_id"`
	SkillID               string `json:"skill_id"`
	SourceID              string `json:"source_id"`
	SourceSeq             int64  `json:"source_seq"`
	CallerID              string `json:"caller_id"`
	ChannelID             string `json:"channel_id"`
	Inputs, Attributes    string
	EventType             string `json:"event_type"`
	Payload               string
	Status, Output, Error string
	ToolCalls             int64 `json:"tool_calls"`
	Runtime               int64 `json:"runtime_us"`
	Input                 int64 `json:"input_tokens"`
	OutputTok             int64 `json:"output_tokens"`
	Thinking              int64 `json:"thinking_tokens"`
	Lost                  string
}

func (s stored) record() record {
	kinds := map[string]string{"start": "run.started", "log": "run.log", "finish": "run.finished"}
	return record{Type: kinds[s.Kind], Seq: s.Seq, At: s.At, ParentRunID: s.ParentRunID, SkillID: s.SkillID,
		SourceID: s.SourceID, SourceSeq: s.SourceSeq, CallerID: s.CallerID, ChannelID: s.ChannelID,
		Inputs: json.RawMessage(s.Inputs), Attributes: json.RawMessage(s.Attributes), EventType: s.EventType,
		Payload: json.RawMessage(s.Payload), Status: s.Status, Output: s.Output, Error: s.Error, ToolCalls: s.ToolCalls,
		Runtime: s.Runtime, Input: s.Input, OutputTok: s.OutputTok, Thinking: s.Thinking, Lost: s.Lost}
}

type record struct {
	Type        string          `json:"type"`
	RunID       string          `json:"run_id"`
	Seq         int64           `json:"seq"`
	At          int64           `json:"at_us"`
	Tag         string          `json:"tag"`
	SkillID     string          `json:"skill_id"`
	CallerID    string          `json:"caller_id"`
	ChannelID   string          `json:"channel_id"`
	ParentRunID string          `json:"parent_run_id"`
	Salt        string          `json:"salt"`
	SourceID    string          `json:"source_id"`
	SourceSeq   int64           `json:"source_seq"`
	Inputs      json.RawMessage `json:"inputs"`
	Attributes  json.RawMessage `json:"attributes"`
	EventType   string          `json:"event_type"`
	Lost        string          `json:"lost"`
	Payload     json.RawMessage `json:"payload"`
	Status      string          `json:"status"`
	Output      string          `json:"output"`
	Error       string          `json:"error"`
	ToolCalls   int64           `json:"tool_calls"`
	Runtime     int64           `json:"runtime_us"`
	Input       int64           `json:"input_tokens"`
	OutputTok   int64           `json:"output_tokens"`
	Thinking    int64           `json:"thinking_tokens"`
	Head        string          `json:"head"`
}

func hash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

func t(value string) string { return strconv.Itoa(len(value)) + ":" + value }

// secrets is what the digests of a run are computed with: its salt, or what is left after a redaction.
type secrets struct {
	run   string
	gone  map[place]string
	salts map[place]string
}

func (s secrets) event(seq int64) string {
	if salt, ok := s.salts[place{Seq: seq}]; ok {
		return salt
	}
	return hash(fmt.Sprintf("skillaudit salt 1\n%s\n%d\n", s.run, seq/2))[32*(seq%2):][:32]
}

func (s secrets) digest(seq int64, header, body string) string {
	if digest, ok := s.gone[place{Seq: seq}]; ok {
		return digest
	}
	return hash("skillaudit event 1\n" + s.event(seq) + "\n" + header + "\n" + body)
}

func (s secrets) field(seq int64, name, value string) string {
	at := place{Seq: seq, Field: name}
	if digest, ok := s.gone[at]; ok {
		return name + " " + digest + "\n"
	}
	own, ok := s.salts[at]
	if !ok {
		own = hash(fmt.Sprintf("skillaudit salt 1\n%s\n%d.%s\n", s.run, seq, name))[:32]
	}
	return name + " " + hash("skillaudit field 1\n"+own+"\n"+name+"\n"+t(value)) + "\n"
}

func headerAndBody(r record, of secrets) (string, string) {
	switch r.Type {
	case "run.started":
		return fmt.Sprintf("start 0 %d %s %s %s %d", r.At, t(r.ParentRunID), t(r.SkillID), r.SourceID, r.SourceSeq),
			of.field(0, "caller_id", r.CallerID) + of.field(0, "channel_id", r.ChannelID) +
				of.field(0, "inputs", string(r.Inputs)) + of.field(0, "attributes", string(r.Attributes))
	case "run.log":
		return fmt.Sprintf("log %d %d %s", r.Seq, r.At, t(r.EventType)), string(r.Payload)
	default:
		return fmt.Sprintf("finish %d %d %s %d %d %d %d %d %s", r.Seq, r.At, t(r.Status), r.ToolCalls, r.Runtime,
				r.Input, r.OutputTok, r.Thinking, t(r.Lost)),
			of.field(r.Seq, "output", r.Output) + of.field(r.Seq, "error", r.Error)
	}
}

// lostBefore is the range of `lost` that ends right before seq, as the manifest has it.
func lostBefore(lost string, seq int64) string {
	for _, part := range strings.Split(lost, ",") {
		_, last, dash := strings.Cut(part, "-")
		if !dash {
			last = part
		}
		if last == strconv.FormatInt(seq-1, 10) {
			return "lost " + part + "\n"
		}
	}
	return ""
}

func main() {
	text, err := os.ReadFile(os.Args[1])
	if err != nil {
		panic(err)
	}
	var all vectors
	if err := json.Unmarshal(text, &all); err != nil {
		panic(err)
	}
	checked, wrong := 0, 0
	for _, run := range all.Runs {
		of, manifest := secrets{}, ""
		for _, event := range run.Events {
			var r record
			if err := json.Unmarshal([]byte(event.Record), &r); err != nil {
				panic(err)
			}
			if r.Type == "run.started" {
				of, manifest = secrets{run: r.Salt}, "skillaudit run 1\n"+t(r.RunID)+"\n"
			}
			header, body := headerAndBody(r, of)
			digest := of.digest(r.Seq, header, body)
			manifest += lostBefore(r.Lost, r.Seq) + header + " " + digest + "\n"
			head := hash(manifest)
			checked++
			if header != event.Header || digest != event.Digest || digest[:16] != event.Tag || r.Tag != event.Tag ||
				head != event.Head || (r.Head != "" && r.Head != head) {
				wrong++
				fmt.Printf("%s #%d differs: header %q digest %s head %s\n", run.Name, event.Seq, header, digest, head)
			}
		}
	}
	for _, run := range all.Redacted {
		of := secrets{gone: map[place]string{}, salts: map[place]string{}}
		for _, at := range run.Redactions {
			of.gone[place{Seq: at.Seq, Field: at.Field}] = at.Digest
		}
		for _, at := range run.RunSalts {
			of.salts[place{Seq: at.Seq, Field: at.Field}] = at.Salt
		}
		manifest := "skillaudit run 1\n" + t(run.RunID) + "\n"
		for _, event := range run.Events {
			r := event.Stored.record()
			header, body := headerAndBody(r, of)
			digest := of.digest(r.Seq, header, body)
			manifest += lostBefore(run.Lost, r.Seq) + header + " " + digest + "\n"
			checked++
			if header != event.Header || digest != event.Digest || hash(manifest) != event.Head {
				wrong++
				fmt.Printf("%s #%d differs: header %q digest %s head %s\n", run.Name, r.Seq, header, digest, hash(manifest))
			}
		}
	}
	fmt.Printf("checked %d events, %d differ\n", checked, wrong)
	if wrong > 0 || checked == 0 {
		os.Exit(1)
	}
}
