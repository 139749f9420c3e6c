package blobs

import (
	"crypto/sha256"
	"io"

	"github.com/klauspost/compress/zstd"
)

// mostCompressed is what a run can take compressed: zstd adds some bytes to what it cannot compress.
const mostCompressed = MaxRun + 1024

// codec compresses and decompresses runs; it may be used at the same time.
type codec struct {
	encoder *zstd.Encoder
	decoder *zstd.Decoder
}

func newCodec() (*codec, error) {
	// The fastest: 300 ms for 100 MB of memory, and a third of its size.
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderCRC(false))
	if err != nil {
		return nil, err
	}
	// A frame that says it is larger is refused before it takes memory.
	decoder, err := zstd.NewReader(nil, zstd.WithDecoderMaxMemory(MaxRun), zstd.WithDecoderConcurrency(0))
	if err != nil {
		return nil, err
	}
	return &codec{encoder: encoder, decoder: decoder}, nil
}

func (c *codec) close() {
	_ = c.encoder.Close()
	c.decoder.Close()
}

func (c *codec) seal(run []byte) []byte { return c.encoder.EncodeAll(run, make([]byte, 0, len(run)/2)) }

// open decompresses a run and compares it with its name.
func (c *codec) open(run Run, compressed []byte) ([]byte, error) {
	content, err := c.decoder.DecodeAll(compressed, make([]byte, 0, run.Length))
	if err != nil {
		return nil, failed(ErrDamaged, "run %s cannot be decompressed: %s", run.Sum, err)
	}
	if len(content) != int(run.Length) || sha256.Sum256(content) != run.Sum {
		return nil, failed(ErrDamaged, "run %s is not what was written: its checksum differs", run.Sum)
	}
	return content, nil
}

// readBounded reads all there is, up to a limit: more is not ours, and fails its checksum.
func readBounded(source io.Reader, most int64) ([]byte, error) {
	return io.ReadAll(io.LimitReader(source, most+1))
}
