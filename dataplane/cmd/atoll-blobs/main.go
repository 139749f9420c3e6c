// Command atoll-blobs does one thing with the runs of checkpoints, and ends: see package blobs.
//
// It reads a request from its standard input and writes the answer to its standard output, as JSON. When the
// input ends before that, whoever asked has died, and it ends, too.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"atoll.dev/dataplane/blobs"
)

// version is set by the build.
var version = "dev"

// Exit codes, beside 0.
const (
	exitFailed    = 1
	exitUsage     = 2
	exitAbandoned = 3
)

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	if len(args) == 1 && args[0] == "--version" {
		fmt.Println("atoll-blobs", version)
		return 0
	}
	if len(args) != 0 {
		fmt.Fprintln(os.Stderr, "atoll-blobs takes no arguments, but a request on its standard input")
		return exitUsage
	}
	input := bufio.NewReader(os.Stdin)
	line, err := input.ReadBytes('\n')
	if err != nil {
		fmt.Fprintln(os.Stderr, "atoll-blobs: no request")
		return exitAbandoned
	}
	go endWith(input)
	return answer(line)
}

// endWith ends this program when its input does: a server that was killed cannot say stop.
func endWith(input io.Reader) {
	_, _ = io.Copy(io.Discard, input)
	os.Exit(exitAbandoned)
}

func answer(line []byte) int {
	request, err := blobs.ParseRequest(line)
	var result any
	if err == nil {
		result, err = blobs.Do(context.Background(), request)
	}
	code := 0
	out := map[string]any{"result": result}
	if err != nil {
		code = exitFailed
		out = map[string]any{"failure": blobs.FailureOf(err)}
	}
	if err := json.NewEncoder(os.Stdout).Encode(out); err != nil {
		fmt.Fprintln(os.Stderr, "atoll-blobs:", err)
		return exitFailed
	}
	return code
}
