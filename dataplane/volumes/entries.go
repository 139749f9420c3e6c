package volumes

import (
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path"
	"strconv"
	"syscall"
	"time"
)

// entry is E2B's VolumeEntryStat.
type entry struct {
	Name   string    `json:"name"`
	Type   string    `json:"type"`
	Path   string    `json:"path"`
	Size   int64     `json:"size"`
	Mode   uint32    `json:"mode"`
	UID    uint32    `json:"uid"`
	GID    uint32    `json:"gid"`
	ATime  time.Time `json:"atime"`
	MTime  time.Time `json:"mtime"`
	CTime  time.Time `json:"ctime"`
	Target *string   `json:"target,omitempty"`
}

func describe(root *os.Root, name string) (*entry, error) {
	info, err := root.Lstat(name)
	if err != nil {
		return nil, err
	}
	stat := info.Sys().(*syscall.Stat_t)
	found := &entry{
		Name: info.Name(), Type: "unknown", Path: path.Join("/", name), Size: info.Size(),
		Mode: stat.Mode & 0o7777, UID: stat.Uid, GID: stat.Gid, MTime: info.ModTime().UTC(),
		ATime: time.Unix(stat.Atim.Unix()).UTC(), CTime: time.Unix(stat.Ctim.Unix()).UTC(),
	}
	if name == "." {
		found.Name = "/"
	}
	switch info.Mode().Type() {
	case 0:
		found.Type = "file"
	case fs.ModeDir:
		found.Type = "directory"
	case fs.ModeSymlink:
		found.Type = "symlink"
		if target, err := root.Readlink(name); err == nil {
			found.Target = &target
		}
	}
	return found, nil
}

func (h *Handler) stat(w http.ResponseWriter, _ *http.Request, root *os.Root, name string) error {
	return told(w, http.StatusOK, root, name)
}

func told(w http.ResponseWriter, status int, root *os.Root, name string) error {
	found, err := describe(root, name)
	if err == nil {
		answer(w, status, found)
	}
	return err
}

func (h *Handler) list(w http.ResponseWriter, r *http.Request, root *os.Root, name string) error {
	depth := 1
	if text := r.URL.Query().Get("depth"); text != "" {
		// Without a sign, as all numbers here.
		number, err := strconv.ParseUint(text, 10, 31)
		if depth = int(number); err != nil || depth < 1 || depth > h.limits.Depth {
			return &badRequest{"depth must be from 1 to " + strconv.Itoa(h.limits.Depth)}
		}
	}
	entries := []*entry{}
	if err := h.walk(root, name, depth, &entries); err != nil {
		return err
	}
	answer(w, http.StatusOK, entries)
	return nil
}

// walk adds what is in a directory and in those below it; a link is an entry, and not followed.
func (h *Handler) walk(root *os.Root, name string, depth int, entries *[]*entry) error {
	names, err := h.names(root, name)
	if err != nil {
		return err
	}
	for _, one := range names {
		inside := path.Join(name, one)
		found, err := describe(root, inside)
		if errors.Is(err, fs.ErrNotExist) {
			continue // Removed meanwhile.
		}
		if err != nil {
			return err
		}
		if len(*entries) >= h.limits.Entries {
			return errTooBig
		}
		*entries = append(*entries, found)
		if depth > 1 && found.Type == "directory" {
			if err := h.walk(root, inside, depth-1, entries); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}

// names reads a directory, and no more than one answer holds. It is closed before those below it are opened.
func (h *Handler) names(root *os.Root, name string) ([]string, error) {
	// As a directory only: a pipe, put there meanwhile perhaps, would wait for its other end.
	directory, err := root.OpenFile(name, os.O_RDONLY|syscall.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer directory.Close()
	names, err := directory.Readdirnames(h.limits.Entries + 1)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return names, err
}

func (h *Handler) makeDirectory(w http.ResponseWriter, r *http.Request, root *os.Root, name string) error {
	wanted, err := ownershipOf(r, 0o755)
	if err != nil {
		return err
	}
	if wanted.force {
		if err := makeParents(root, name); err != nil {
			return err
		}
	}
	err = root.Mkdir(name, 0o700)
	if errors.Is(err, fs.ErrExist) && wanted.force {
		if info, statErr := root.Lstat(name); statErr == nil && info.IsDir() {
			return told(w, http.StatusCreated, root, name)
		}
	}
	if err != nil {
		return err
	}
	if err := wanted.apply(root, name); err != nil {
		return err
	}
	return told(w, http.StatusCreated, root, name)
}

// makeParents makes the directories above a path that are missing; they belong to the default owner.
func makeParents(root *os.Root, name string) error {
	above := path.Dir(name)
	if above == "." {
		return nil
	}
	if err := makeParents(root, above); err != nil {
		return err
	}
	err := root.Mkdir(above, 0o755)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return root.Lchown(above, DefaultOwner, DefaultOwner)
}

func (h *Handler) remove(w http.ResponseWriter, r *http.Request, root *os.Root, name string) error {
	if name == "." {
		return &badRequest{"the volume itself cannot be removed here"}
	}
	if _, err := root.Lstat(name); err != nil {
		return err
	}
	holder, err := root.OpenFile(path.Dir(name), os.O_RDONLY|syscall.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer holder.Close()
	if err := removeTree(r.Context(), holder, path.Base(name)); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (h *Handler) change(w http.ResponseWriter, r *http.Request, root *os.Root, name string) error {
	var wanted struct {
		UID  *uint32 `json:"uid"`
		GID  *uint32 `json:"gid"`
		Mode *uint32 `json:"mode"`
	}
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, 4096))
	if err := decoder.Decode(&wanted); err != nil {
		return &badRequest{"the body is no JSON object with uid, gid and mode"}
	}
	uid, err := owner("uid", wanted.UID)
	if err != nil {
		return err
	}
	gid, err := owner("gid", wanted.GID)
	if err != nil {
		return err
	}
	// Of a link, the link itself: what it leads to has a path of its own. First the owner: a change takes bits away.
	if err := root.Lchown(name, uid, gid); err != nil {
		return err
	}
	if wanted.Mode != nil {
		if err := changeMode(root, name, *wanted.Mode); err != nil {
			return err
		}
	}
	return told(w, http.StatusOK, root, name)
}

// owner is what the kernel takes for one; -1 leaves it as it is.
func owner(name string, wanted *uint32) (int, error) {
	if wanted == nil {
		return -1, nil
	}
	if *wanted > maxOwner {
		return 0, &badRequest{name + " is not a number that fits"}
	}
	return int(*wanted), nil
}

func changeMode(root *os.Root, name string, mode uint32) error {
	if mode > 0o7777 {
		return &badRequest{"mode must be at most 07777"}
	}
	info, err := root.Lstat(name)
	if err != nil {
		return err
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		return nil // A link has none.
	}
	return root.Chmod(name, fileMode(mode))
}

// fileMode is what os makes of the kernel's bits.
func fileMode(mode uint32) fs.FileMode {
	made := fs.FileMode(mode & 0o777)
	for bit, flag := range map[uint32]fs.FileMode{syscall.S_ISUID: fs.ModeSetuid, syscall.S_ISGID: fs.ModeSetgid, syscall.S_ISVTX: fs.ModeSticky} {
		if mode&bit != 0 {
			made |= flag
		}
	}
	return made
}

// ownership is whom a new entry belongs to, and what may be done with it.
type ownership struct {
	uid, gid int
	mode     uint32
	force    bool
}

// maxOwner is the last user or group: the next number tells the kernel to leave it as it is.
const maxOwner = 1<<32 - 2

var most = map[string]uint64{"uid": maxOwner, "gid": maxOwner, "mode": 0o7777}

func ownershipOf(r *http.Request, mode uint32) (*ownership, error) {
	query := r.URL.Query()
	wanted := &ownership{uid: DefaultOwner, gid: DefaultOwner, mode: mode}
	for name, set := range map[string]func(uint64){
		"uid":  func(n uint64) { wanted.uid = int(n) },
		"gid":  func(n uint64) { wanted.gid = int(n) },
		"mode": func(n uint64) { wanted.mode = uint32(n) },
	} {
		text := query.Get(name)
		if text == "" {
			continue
		}
		number, err := strconv.ParseUint(text, 10, 32)
		if err != nil || number > most[name] {
			return nil, &badRequest{name + " is not a number that fits"}
		}
		set(number)
	}
	if text := query.Get("force"); text != "" {
		force, err := strconv.ParseBool(text)
		if err != nil {
			return nil, &badRequest{"force is neither true nor false"}
		}
		wanted.force = force
	}
	return wanted, nil
}

func (o *ownership) apply(root *os.Root, name string) error {
	if err := root.Lchown(name, o.uid, o.gid); err != nil {
		return err
	}
	return root.Chmod(name, fileMode(o.mode))
}
