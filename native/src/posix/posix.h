/* Feature macros of POSIX, for the files that use the system. Include it before other headers. */
#ifndef HYDRA_POSIX_H
#define HYDRA_POSIX_H

#if defined(_WIN32)
#error "this file needs POSIX; build with HYDRA_NO_FILES and use hydra_open and hydra_write_peft"
#endif

#define _POSIX_C_SOURCE 200809L
#define _FILE_OFFSET_BITS 64
/* Apple's fcntl.h hides O_NOFOLLOW from a program that asks for POSIX alone. */
#define _DARWIN_C_SOURCE

#endif
