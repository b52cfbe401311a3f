#define _GNU_SOURCE
#include "stream.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

void fail(const char *format, ...) {
    va_list args;
    va_start(args, format);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    exit(1);
}

void stream_connect(struct stream *stream, int port) {
    int on = 1;
    struct linger reset = {1, 0}; /* ports are used again at once: leave no TIME_WAIT behind */
    struct sockaddr_in server = {.sin_family = AF_INET, .sin_port = htons(port)};
    server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    stream->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (stream->fd < 0) fail("socket: %s", strerror(errno));
    setsockopt(stream->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(stream->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    if (connect(stream->fd, (void *)&server, sizeof server) && errno != EINPROGRESS)
        fail("connect: %s", strerror(errno));
}

static ssize_t plain_result(ssize_t count) {
    return count > 0 ? count : count < 0 && errno == EAGAIN ? 0 : -1;
}

#ifdef WITH_TLS
#include <openssl/ssl.h>

static ssize_t tls_result(struct stream *stream, int count) {
    if (count > 0) return count;
    int why = SSL_get_error(stream->tls, count);
    return why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE ? 0 : -1;
}

/* The certificate is of no interest: the server is ours. */
static SSL *tls_begin(int fd) {
    static SSL_CTX *context;
    if (!context) {
        context = SSL_CTX_new(TLS_client_method());
        SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE);
        SSL_CTX_set_mode(context, SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    }
    SSL *tls = SSL_new(context);
    SSL_set_fd(tls, fd);
    return tls;
}

int stream_secure(struct stream *stream, int *wants_write) {
    if (!stream->tls) stream->tls = tls_begin(stream->fd);
    int result = SSL_connect(stream->tls);
    if (result != 1 && tls_result(stream, result) < 0) fail("the server's TLS failed");
    *wants_write = SSL_want_write(stream->tls);
    return result == 1;
}

ssize_t stream_read(struct stream *stream, void *to, size_t room) {
    if (stream->tls) return tls_result(stream, SSL_read(stream->tls, to, room));
    return plain_result(recv(stream->fd, to, room, 0));
}

ssize_t stream_write(struct stream *stream, const void *from, size_t length) {
    if (stream->tls) return tls_result(stream, SSL_write(stream->tls, from, length));
    return plain_result(send(stream->fd, from, length, MSG_NOSIGNAL));
}

void stream_close(struct stream *stream) {
    SSL_free(stream->tls);
    stream->tls = NULL;
    close(stream->fd);
}

#else

int stream_secure(struct stream *stream, int *wants_write) {
    (void)stream, (void)wants_write;
    fail("built without TLS: OpenSSL's headers were not there");
}

ssize_t stream_read(struct stream *stream, void *to, size_t room) {
    return plain_result(recv(stream->fd, to, room, 0));
}

ssize_t stream_write(struct stream *stream, const void *from, size_t length) {
    return plain_result(send(stream->fd, from, length, MSG_NOSIGNAL));
}

void stream_close(struct stream *stream) { close(stream->fd); }

#endif
