/* A connected socket that never blocks, with TLS on it or without. */
#include <sys/types.h>

struct stream {
    int fd;
    void *tls;
};

void stream_connect(struct stream *stream, int port); /* to this machine */
int stream_secure(struct stream *stream, int *wants_write); /* begin, go on; 1: done, 0: not yet */
ssize_t stream_read(struct stream *stream, void *to, size_t room); /* 0: not now, -1: ended */
ssize_t stream_write(struct stream *stream, const void *from, size_t length);
void stream_close(struct stream *stream);

void fail(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));
