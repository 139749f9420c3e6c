#include "textflag.h"

// A signal's handler that does nothing.
TEXT handler<>(SB), NOSPLIT|NOFRAME, $0
	RET

// Where a handler returns to: rt_sigreturn.
TEXT restorer<>(SB), NOSPLIT|NOFRAME, $0
	MOVQ $15, AX
	SYSCALL
	INT $3

DATA ·handlerPC(SB)/8, $handler<>(SB)
GLOBL ·handlerPC(SB), RODATA|NOPTR, $8

DATA ·restorerPC(SB)/8, $restorer<>(SB)
GLOBL ·restorerPC(SB), RODATA|NOPTR, $8
