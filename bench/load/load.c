/* The other end of a benchmark: a client that costs little, so that the server is what is measured.
 *
 *   load echo       every connection keeps --depth messages in flight; the server sends each back
 *   load twice      as echo, but the server sends each back twice, in two writes
 *   load handshake  every slot connects, upgrades, says Close, awaits the end, and begins again
 *   load idle       opens the connections, exchanges one message on each, reads the server's memory
 *   load broadcast  the first connection sends; every connection must get every message
 *
 * Frames are masked (and compressed) once, ahead of the run. While warming up, each payload that
 * comes back is compared with what was sent; while measuring, its length. Anything unexpected
 * ends the run with a sentence on stderr. The figures are one line of JSON.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "frame.h"
#include "gauge.h"
#include "stream.h"

enum { READ_SIZE = 1 << 20, OPENING_AT_ONCE = 64 };
enum state { CONNECTING, SECURING, UPGRADING, OPEN };

struct link {
    struct stream stream;
    enum state state;
    int wants_write;
    char response[1024];
    size_t response_len;
    size_t unsent, at;               /* bytes still to write; where in the frame they begin */
    uint64_t asked, answered, *sent; /* messages out and in; when the last --depth were sent */
    int half;                        /* the first of two answers has come */
    unsigned char head[10];
    size_t head_len;
    uint64_t body_len, body_left;
};

static struct {
    const char *work, *file;
    int port, pid, conns, depth, text, deflate, tls;
    size_t size;
    double warm, secs;
} options = {.conns = 1, .depth = 1, .size = 256, .warm = 0.2, .secs = 1};

static struct {
    int measuring;
    uint64_t opened, ended, messages, wire_bytes;
} seen;

static struct link *links;
static int started, poller;
static struct wave wave;
static unsigned char *inbox;

static int works(const char *name) { return !strcmp(options.work, name); }
static int echoes(void) { return works("echo") || works("twice"); }

/* What is sent */

static void watch(struct link *link, int write, int how) {
    struct epoll_event event = {.events = EPOLLIN | (write ? EPOLLOUT : 0), .data.ptr = link};
    link->wants_write = write;
    if (epoll_ctl(poller, how, link->stream.fd, &event)) fail("epoll: %s", strerror(errno));
}

static void flush_link(struct link *link) {
    while (link->unsent) {
        size_t run = wave.length - link->at;
        if (run > link->unsent) run = link->unsent;
        ssize_t count = stream_write(&link->stream, wave.frames + link->at, run);
        if (count < 0) fail("the server dropped a connection: %s", strerror(errno));
        if (count == 0) break;
        link->unsent -= count;
        link->at = (link->at + count) % wave.frame_len;
    }
    if (link->wants_write != !!link->unsent) watch(link, !!link->unsent, EPOLL_CTL_MOD);
}

static void ask(struct link *link, uint64_t messages) {
    if (!messages) return;
    uint64_t time = now();
    for (uint64_t i = 0; i < messages; i++) link->sent[link->asked++ % options.depth] = time;
    link->unsent += messages * wave.frame_len;
    flush_link(link);
}

/* Opening */

static void connect_link(struct link *link) {
    stream_connect(&link->stream, options.port);
    link->state = CONNECTING;
    link->response_len = link->head_len = link->body_left = 0;
    link->sent[0] = now();
    watch(link, 1, EPOLL_CTL_ADD);
}

static void send_request(struct link *link) {
    char request[512];
    const char *extensions =
        options.deflate ? "Sec-WebSocket-Extensions: permessage-deflate; "
                          "client_no_context_takeover; server_no_context_takeover\r\n" : "";
    int length = snprintf(
        request, sizeof request,
        "GET / HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n%s\r\n",
        options.port, extensions);
    if (stream_write(&link->stream, request, length) != length) fail("the request was not written");
    link->state = UPGRADING;
    watch(link, 0, EPOLL_CTL_MOD);
}

static void secure(struct link *link) {
    int wants_write = 0;
    if (stream_secure(&link->stream, &wants_write)) send_request(link);
    else watch(link, wants_write, EPOLL_CTL_MOD);
}

static void connected(struct link *link) {
    link->state = SECURING;
    if (options.tls) secure(link);
    else send_request(link);
}

static void opened(struct link *link) {
    static const unsigned char bye[8] = {0x88, 0x82, 0, 0, 0, 0, 1000 >> 8, 1000 & 255};
    link->state = OPEN;
    seen.opened++;
    if (!works("handshake")) return;
    if (seen.measuring) record_latency(now() - link->sent[0]);
    if (stream_write(&link->stream, bye, sizeof bye) < 0) fail("the Close was not written");
}

/* Returns how much of what arrived was still the response's head. */
static size_t read_response(struct link *link, const unsigned char *bytes, size_t count) {
    static const char accepted[] = "HTTP/1.1 101 ", key[] = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
    size_t before = link->response_len, room = sizeof link->response - 1 - before;
    if (count > room) count = room;
    memcpy(link->response + before, bytes, count);
    link->response[link->response_len = before + count] = 0;
    char *end = strstr(link->response, "\r\n\r\n");
    if (!end && count == room) fail("a response of more than %zu bytes", sizeof link->response);
    if (!end) return count;
    end[2] = 0;
    if (strncmp(link->response, accepted, strlen(accepted)) || !strstr(link->response, key))
        fail("the server refused: %.60s", link->response);
    if (options.deflate && !strcasestr(link->response, "permessage-deflate"))
        fail("the server declined permessage-deflate");
    opened(link);
    return end + 4 - link->response - before;
}

/* What comes back */

static void message_came(struct link *link) {
    static uint64_t delivered;
    struct link *source = works("broadcast") ? links : link;
    if (works("twice") && (link->half = !link->half)) return;
    uint64_t sent = source->sent[link->answered++ % options.depth];
    if (seen.measuring) {
        seen.messages++;
        record_latency(now() - sent);
    }
    if (works("broadcast") && ++delivered % options.conns == 0) ask(links, 1);
}

static size_t head_size(const struct link *link) {
    int length = link->head_len < 2 ? 0 : link->head[1] & 127;
    return length == 126 ? 4 : length == 127 ? 10 : 2;
}

static void check_head(const struct link *link) {
    int opcode = link->head[0] & 15, expected = options.text ? 1 : 2;
    if (link->head[1] & 0x80) fail("the server masked a frame");
    if (opcode == 8 && !works("handshake")) fail("the server sent a Close");
    if (opcode >= 8) return;
    if (opcode != expected) fail("sent opcode %d, got %d", expected, opcode);
    if (!(link->head[0] & 0x80)) fail("the server fragmented a message");
    if (!!(link->head[0] & 0x40) != options.deflate) fail("the server did not compress its answer");
    if (!options.deflate && link->body_len != wave.payload_len)
        fail("sent %zu bytes, got %llu", wave.payload_len, (unsigned long long)link->body_len);
}

static size_t read_head(struct link *link, const unsigned char *bytes, size_t count) {
    size_t used = 0;
    while (used < count && link->head_len < head_size(link))
        link->head[link->head_len++] = bytes[used++];
    if (link->head_len < head_size(link)) return used;
    link->body_len = link->head_len == 2 ? link->head[1] & 127 : 0;
    for (size_t i = 2; i < link->head_len; i++)
        link->body_len = link->body_len << 8 | link->head[i];
    check_head(link);
    link->body_left = link->body_len;
    return used;
}

static size_t read_body(struct link *link, const unsigned char *bytes, size_t count) {
    if (count > link->body_left) count = link->body_left;
    int checked = !seen.measuring && !options.deflate && (link->head[0] & 15) < 8;
    if (checked && memcmp(bytes, wave.payload + link->body_len - link->body_left, count))
        fail("what came back is not what was sent");
    link->body_left -= count;
    return count;
}

static void read_frames(struct link *link, const unsigned char *bytes, size_t count) {
    while (count) {
        int in_head = link->head_len < head_size(link);
        size_t used = in_head ? read_head(link, bytes, count) : read_body(link, bytes, count);
        bytes += used;
        count -= used;
        if (link->head_len < head_size(link) || link->body_left) continue;
        if ((link->head[0] & 15) < 8) message_came(link);
        link->head_len = 0;
    }
}

static void ended(struct link *link) {
    if (!works("handshake")) fail("the server dropped a connection");
    if (link->state != OPEN) fail("the server dropped a handshake");
    stream_close(&link->stream);
    seen.ended++;
    connect_link(link);
}

static void readable(struct link *link) {
    for (;;) {
        ssize_t count = stream_read(&link->stream, inbox, READ_SIZE);
        if (count < 0) { ended(link); return; }
        size_t used = 0;
        if (seen.measuring) seen.wire_bytes += count;
        if (count && link->state == UPGRADING) used = read_response(link, inbox, count);
        read_frames(link, inbox + used, count - used);
        if (count == 0 || (!link->stream.tls && count < READ_SIZE)) break;
    }
    /* Only now: what arrived together is answered together. */
    if (echoes() && link->asked)
        ask(link, options.depth - (link->asked - link->answered));
}

/* The run */

static void turn(struct link *link, uint32_t events) {
    if (link->state == CONNECTING) connected(link);
    else if (link->state == SECURING) secure(link);
    else {
        if (events & EPOLLOUT) flush_link(link);
        if (events & ~EPOLLOUT) readable(link);
    }
}

static void run(double seconds, int (*done)(void)) {
    struct epoll_event events[256];
    for (uint64_t end = now() + seconds * 1e9; now() < end && !(done && done());) {
        int count = epoll_wait(poller, events, 256, 10);
        for (int i = 0; i < count; i++) turn(events[i].data.ptr, events[i].events);
    }
}

static int has_room(void) { return started - (int)seen.opened < OPENING_AT_ONCE; }
static int all_open(void) { return seen.opened >= (uint64_t)options.conns; }
static int all_answered(void) {
    for (int i = 0; i < options.conns; i++)
        if (!links[i].answered) return 0;
    return 1;
}

static void open_links(void) {
    links = calloc(options.conns, sizeof *links);
    for (; started < options.conns; started++) {
        links[started].sent = calloc(options.depth, sizeof *links->sent);
        connect_link(&links[started]);
        run(10, has_room);
    }
    run(60, all_open);
    if (!all_open()) fail("only %d of %d connections were opened", (int)seen.opened, options.conns);
}

/* A server may tell its handlers of a connection, or tidy up, after the 101 has come. One that
 * spends nothing need not be done: it may wait for its core. */
static void settle(void) {
    for (int calm = 0, tries = 0; calm < 3 && tries < 100; tries++) {
        uint64_t before = server_cpu(options.pid);
        run(0.05, NULL);
        int rests = server_cpu(options.pid) - before < 2e6 && server_sleeps(options.pid);
        calm = rests ? calm + 1 : 0;
    }
}

/* Not as they open: the last ones would have to queue behind the traffic of the first. */
static void ask_all(void) {
    if (works("broadcast")) settle();
    int senders = works("handshake") ? 0 : works("broadcast") ? 1 : options.conns;
    for (int i = 0; i < senders; i++) ask(&links[i], options.depth);
}

static void report_memory(long before) {
    run(30, all_answered);
    settle();
    printf("{\"kb\": %.3f}\n", (double)(server_kb(options.pid) - before) / options.conns);
}

static void measure(void) {
    if (echoes()) run(30, all_answered);
    run(options.warm, NULL);
    seen.measuring = 1;
    seen.ended = 0;
    uint64_t cpu = server_cpu(options.pid), start = now();
    double user = server_user(options.pid);
    run(options.secs, NULL);
    double secs = (now() - start) / 1e9;
    cpu = server_cpu(options.pid) - cpu;
    user = server_user(options.pid) - user;
    uint64_t done = works("handshake") ? seen.ended : seen.messages;
    if (!done) fail("nothing came back within %.1f s", secs);
    printf("{\"cpu_us\": %.4f, \"user_us\": %.4f, \"per_s\": %.0f, ",
           cpu / 1e3 / done, user * 1e6 / done, done / secs);
    printf("\"p50_us\": %.1f, \"p99_us\": %.1f, \"wire_bytes\": %.0f}\n",
           latency_us(0.5), latency_us(0.99), (double)seen.wire_bytes / done);
}

static void read_options(int argc, char **argv) {
    static const struct option names[] = {
        {"port", 1, 0, 'p'}, {"pid", 1, 0, 'i'}, {"conns", 1, 0, 'c'}, {"size", 1, 0, 's'},
        {"file", 1, 0, 'f'}, {"depth", 1, 0, 'd'}, {"warm", 1, 0, 'w'}, {"secs", 1, 0, 't'},
        {"text", 0, &options.text, 1}, {"deflate", 0, &options.deflate, 1},
        {"tls", 0, &options.tls, 1}, {0, 0, 0, 0}};
    for (int name; (name = getopt_long(argc, argv, "", names, NULL)) != -1;) switch (name) {
        case 'p': options.port = atoi(optarg); break;
        case 'i': options.pid = atoi(optarg); break;
        case 'c': options.conns = atoi(optarg); break;
        case 's': options.size = strtoull(optarg, NULL, 10); break;
        case 'f': options.file = optarg; break;
        case 'd': options.depth = atoi(optarg); break;
        case 'w': options.warm = atof(optarg); break;
        case 't': options.secs = atof(optarg); break;
        case '?': exit(2);
    }
    if (optind != argc - 1 || !options.port)
        fail("usage: load echo|twice|handshake|idle|broadcast --port P [--pid SERVER] ...");
    options.work = argv[optind];
}

int main(int argc, char **argv) {
    read_options(argc, argv);
    make_wave(&wave, options.file, options.size, options.text, options.deflate);
    inbox = malloc(READ_SIZE);
    poller = epoll_create1(0);
    long before = server_kb(options.pid);
    open_links();
    ask_all();
    if (works("idle")) report_memory(before);
    else measure();
    return 0;
}
