# For shells in the image.
[ -n "$PS1" ] || return
. /usr/share/bash-completion/bash_completion
alias ll='ls -l'
PS1='\h:\w\$ '
/usr/local/lib/kube-router/motd
