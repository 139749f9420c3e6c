package accounts

import (
	"path/filepath"
	"strings"
	"testing"
)

func TestPathsResolveAsTheUserMeansThem(t *testing.T) {
	u := &User{Name: "user", Home: "/home/user"}
	for _, c := range []struct{ path, workdir, want string }{
		{"", "", "/home/user"},
		{"a", "", "/home/user/a"},
		{"a", "/w", "/w/a"},
		{"a", "~/w", "/home/user/w/a"},
		{"~", "/w", "/home/user"},
		{"~/a", "/w", "/home/user/a"},
		{"/a/../b/", "", "/b"},
		{"../../../x", "", "/x"},
	} {
		if got, err := u.Resolve(c.path, c.workdir); err != nil || got != c.want {
			t.Errorf("%q in %q: %q %v", c.path, c.workdir, got, err)
		}
	}
	for _, path := range []string{"a\x00b", "~other/x", strings.Repeat("a", 1<<16)} {
		if got, err := u.Resolve(path, ""); err == nil {
			t.Errorf("%.20q became %.20q", path, got)
		}
	}
}

func TestUnknownNamesAreNobody(t *testing.T) {
	for _, name := range []string{"", "no-such-user", "root:", "a\nb", strings.Repeat("a", 1000)} {
		if _, err := Lookup(name); err == nil {
			t.Errorf("%.20q was found", name)
		}
	}
	if root, err := Lookup("root"); err != nil || root.UID != 0 {
		t.Errorf("root: %v %v", root, err)
	}
}

func FuzzResolve(f *testing.F) {
	f.Add("~/a", "/w")
	f.Add("../..", "~")
	f.Fuzz(func(t *testing.T, path, workdir string) {
		got, err := (&User{Name: "user", Home: "/home/user"}).Resolve(path, workdir)
		if err == nil && (!filepath.IsAbs(got) || filepath.Clean(got) != got) {
			t.Fatalf("%q in %q became %q", path, workdir, got)
		}
	})
}
