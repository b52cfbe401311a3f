/* The limit: the least an echo server can do, to see how far from it the others are.
 *
 *   limit PORT
 *
 * One thread, epoll, one read and one write for whatever has arrived. Nothing is checked that
 * a well-behaved client cannot get wrong: no UTF-8, no limits, no fragments, no closing timeout.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

struct buffer {
    unsigned char *bytes;
    size_t length, room;
};

struct link {
    int fd, open, closing, wants_write;
    struct buffer in, out; /* an incomplete frame; what the peer has not taken yet */
};

static int poller;

static void append(struct buffer *buffer, const void *bytes, size_t length) {
    if (buffer->length + length > buffer->room) {
        buffer->room = 2 * (buffer->length + length);
        buffer->bytes = realloc(buffer->bytes, buffer->room);
    }
    memcpy(buffer->bytes + buffer->length, bytes, length);
    buffer->length += length;
}

static void drop(struct buffer *buffer, size_t length) {
    buffer->length -= length;
    if (buffer->length) memmove(buffer->bytes, buffer->bytes + length, buffer->length);
}

/* The handshake */

static uint32_t rotate(uint32_t word, int by) { return word << by | word >> (32 - by); }

static void sha1_block(uint32_t sum[5], const unsigned char *block) {
    static const uint32_t k[4] = {0x5a827999, 0x6ed9eba1, 0x8f1bbcdc, 0xca62c1d6};
    uint32_t w[80], a = sum[0], b = sum[1], c = sum[2], d = sum[3], e = sum[4];
    for (int i = 0; i < 16; i++) memcpy(&w[i], block + 4 * i, 4), w[i] = ntohl(w[i]);
    for (int i = 16; i < 80; i++) w[i] = rotate(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
    for (int i = 0; i < 80; i++) {
        uint32_t choice = (b & c) | (~b & d), majority = (b & c) | (b & d) | (c & d);
        uint32_t mix = i < 20 ? choice : i / 20 == 2 ? majority : b ^ c ^ d;
        uint32_t next = rotate(a, 5) + mix + e + k[i / 20] + w[i];
        e = d, d = c, c = rotate(b, 30), b = a, a = next;
    }
    sum[0] += a, sum[1] += b, sum[2] += c, sum[3] += d, sum[4] += e;
}

/* §4.2.2: a key of 24 characters and the GUID of 36 make 60 bytes, two blocks with the padding. */
static void accept_key(const char *key, char out[29]) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    unsigned char block[128] = {0};
    uint32_t sum[5] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0};
    memcpy(block, key, 24);
    memcpy(block + 24, "258EAFA5-E914-47DA-95CA-C5AB0DC85B11", 36);
    block[60] = 0x80;
    block[126] = 480 >> 8, block[127] = 480 & 255;
    sha1_block(sum, block);
    sha1_block(sum, block + 64);
    unsigned char digest[21] = {0};
    for (int i = 0; i < 20; i++) digest[i] = sum[i / 4] >> (24 - 8 * (i % 4));
    for (int i = 0; i < 28; i++) {
        int bit = 6 * i, pair = digest[bit / 8] << 8 | (bit / 8 < 20 ? digest[bit / 8 + 1] : 0);
        out[i] = i == 27 ? '=' : digits[pair >> (10 - bit % 8) & 63];
    }
    out[28] = 0;
}

static size_t answer_handshake(struct link *link, const unsigned char *bytes, size_t length) {
    const unsigned char *end = memmem(bytes, length, "\r\n\r\n", 4);
    if (!end) return 0;
    char head[2048] = {0}, key[29], response[256];
    memcpy(head, bytes, end - bytes < 2047 ? end - bytes : 2047);
    char *field = strcasestr(head, "Sec-WebSocket-Key: ");
    if (!field) return 0;
    accept_key(field + 19, key);
    snprintf(response, sizeof response, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
             "Connection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n", key);
    append(&link->out, response, strlen(response));
    link->open = 1;
    return end + 4 - bytes;
}

/* Frames: the client's head is always four bytes longer than ours, for the key */

static void unmask(unsigned char *to, const unsigned char *from, size_t length) {
    const unsigned char *key = from - 4;
    uint64_t wide, word;
    memcpy(&wide, key, 4), memcpy((char *)&wide + 4, key, 4);
    size_t i = 0;
    for (; i + 8 <= length; i += 8) {
        memcpy(&word, from + i, 8);
        word ^= wide;
        memcpy(to + i, &word, 8);
    }
    for (; i < length; i++) to[i] = from[i] ^ key[i & 3];
}

static size_t echo_frame(struct link *link, const unsigned char *bytes, size_t length) {
    if (length < 2) return 0;
    size_t size = bytes[1] & 127, head = size == 126 ? 4 : size == 127 ? 10 : 2;
    if (length < head) return 0;
    if (head > 2) size = 0;
    for (size_t i = 2; i < head; i++) size = size << 8 | bytes[i];
    if (length < head + 4 + size) return 0;
    append(&link->out, bytes, head + size);
    unsigned char *frame = link->out.bytes + link->out.length - head - size;
    frame[1] &= 127;
    unmask(frame + head, bytes + head + 4, size);
    if ((bytes[0] & 15) == 8) link->closing = 1;
    return head + 4 + size;
}

static size_t feed(struct link *link, const unsigned char *bytes, size_t length) {
    size_t used = 0, step = 1;
    while (step) {
        step = (link->open ? echo_frame : answer_handshake)(link, bytes + used, length - used);
        used += step;
    }
    return used;
}

/* Bytes */

static void end(struct link *link) {
    close(link->fd);
    free(link->in.bytes);
    free(link->out.bytes);
    free(link);
}

static void flush(struct link *link) {
    ssize_t count = 0;
    if (link->out.length) count = send(link->fd, link->out.bytes, link->out.length, MSG_NOSIGNAL);
    if (count < 0 && errno != EAGAIN) link->closing = 1, link->out.length = 0;
    if (count > 0) drop(&link->out, count);
    if (link->wants_write != !!link->out.length) {
        link->wants_write = !!link->out.length;
        struct epoll_event event = {EPOLLIN | (link->wants_write ? EPOLLOUT : 0), {.ptr = link}};
        epoll_ctl(poller, EPOLL_CTL_MOD, link->fd, &event);
    }
}

static void serve(struct link *link) {
    static unsigned char bytes[1 << 18];
    ssize_t count = recv(link->fd, bytes, sizeof bytes, 0);
    if (count == 0 || (count < 0 && errno != EAGAIN)) { end(link); return; }
    if (count > 0 && link->in.length) {
        append(&link->in, bytes, count);
        drop(&link->in, feed(link, link->in.bytes, link->in.length));
    } else if (count > 0) {
        size_t used = feed(link, bytes, count);
        if (used < (size_t)count) append(&link->in, bytes + used, count - used);
    }
    flush(link);
    if (link->closing && !link->out.length) end(link);
}

static void admit(int listener) {
    int on = 1, fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
    if (fd < 0) return;
    struct link *link = calloc(1, sizeof *link);
    struct epoll_event event = {EPOLLIN, {.ptr = link}};
    link->fd = fd;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
}

static int listen_on(int port) {
    int on = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons(port)};
    here.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (void *)&here, sizeof here) || listen(listener, 1024))
        perror("limit"), exit(1);
    struct epoll_event event = {EPOLLIN, {.ptr = NULL}};
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event);
    return listener;
}

int main(int argc, char **argv) {
    if (argc != 2) return fprintf(stderr, "usage: limit PORT\n"), 2;
    poller = epoll_create1(0);
    int listener = listen_on(atoi(argv[1]));
    for (;;) {
        struct epoll_event events[256];
        int count = epoll_wait(poller, events, 256, -1);
        for (int i = 0; i < count; i++)
            if (events[i].data.ptr) serve(events[i].data.ptr);
            else admit(listener);
    }
}
