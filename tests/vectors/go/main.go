// Recomputes tags and heads of the golden vectors from nothing but the records, with Go's standard library alone:
// somebody who never saw the project's code can check what it writes. Usage: go run main.go ../digests.json
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

func field(salt string, seq int64, name, value string) string {
	own := hash(fmt.Sprintf("skillaudit salt 1\n%s\n%d.%s\n", salt, seq, name))[:32]
	return name + " " + hash("skillaudit field 1\n"+own+"\n"+name+"\n"+t(value)) + "\n"
}

func headerAndBody(r record, salt string) (string, string) {
	switch r.Type {
	case "run.started":
		return fmt.Sprintf("start 0 %d %s %s %s %d", r.At, t(r.ParentRunID), t(r.SkillID), r.SourceID, r.SourceSeq),
			field(salt, 0, "caller_id", r.CallerID) + field(salt, 0, "channel_id", r.ChannelID) +
				field(salt, 0, "inputs", string(r.Inputs)) + field(salt, 0, "attributes", string(r.Attributes))
	case "run.log":
		return fmt.Sprintf("log %d %d %s", r.Seq, r.At, t(r.EventType)), string(r.Payload)
	default:
		return fmt.Sprintf("finish %d %d %s %d %d %d %d %d %s", r.Seq, r.At, t(r.Status), r.ToolCalls, r.Runtime,
				r.Input, r.OutputTok, r.Thinking, t(r.Lost)),
			field(salt, r.Seq, "output", r.Output) + field(salt, r.Seq, "error", r.Error)
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
		salt, manifest := "", ""
		for _, event := range run.Events {
			var r record
			if err := json.Unmarshal([]byte(event.Record), &r); err != nil {
				panic(err)
			}
			if r.Type == "run.started" {
				salt, manifest = r.Salt, "skillaudit run 1\n"+t(r.RunID)+"\n"
			}
			header, body := headerAndBody(r, salt)
			salts := hash(fmt.Sprintf("skillaudit salt 1\n%s\n%d\n", salt, r.Seq/2))
			digest := hash("skillaudit event 1\n" + salts[32*(r.Seq%2):][:32] + "\n" + header + "\n" + body)
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
	fmt.Printf("checked %d events, %d differ\n", checked, wrong)
	if wrong > 0 || checked == 0 {
		os.Exit(1)
	}
}
