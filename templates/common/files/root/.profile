# ~/.profile: read by login shells.

if [ -n "${BASH_VERSION-}" ] && [ -f ~/.bashrc ]; then
  . ~/.bashrc
fi
