# ~/.bashrc: read by bash when it is not a login shell, and by ~/.profile.

case $- in
  *i*) ;;
  *) return ;;
esac

HISTCONTROL=ignoreboth
HISTSIZE=1000
HISTFILESIZE=2000
shopt -s histappend checkwinsize

case "$TERM" in
  xterm-color | *-256color)
    PS1='\[\033[01;32m\]\u@\h\[\033[00m\]:\[\033[01;34m\]\w\[\033[00m\]\$ '
    alias ls='ls --color=auto'
    alias grep='grep --color=auto'
    ;;
  *)
    PS1='\u@\h:\w\$ '
    ;;
esac

if [ -f ~/.bash_aliases ]; then
  . ~/.bash_aliases
fi
