#include "frame.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "stream.h"

enum { WAVE_SIZE = 1 << 16 };

static void read_payload(struct wave *wave, const char *name) {
    FILE *file = fopen(name, "rb");
    if (!file) fail("%s: %s", name, strerror(errno));
    fseek(file, 0, SEEK_END);
    wave->payload = malloc(wave->payload_len = ftell(file));
    rewind(file);
    if (fread(wave->payload, 1, wave->payload_len, file) != wave->payload_len)
        fail("%s: cannot be read", name);
    fclose(file);
}

static void invent_payload(struct wave *wave, size_t size) {
    wave->payload = malloc(wave->payload_len = size);
    for (size_t i = 0; i < size; i++) wave->payload[i] = ' ' + (i * 7 + i / 95) % 95;
}

static void compress_payload(struct wave *wave) {
    z_stream stream = {0};
    deflateInit2(&stream, 6, Z_DEFLATED, -15, 8, Z_DEFAULT_STRATEGY);
    size_t room = deflateBound(&stream, wave->payload_len) + 64;
    unsigned char *small = malloc(room);
    stream.next_in = wave->payload;
    stream.avail_in = wave->payload_len;
    stream.next_out = small;
    stream.avail_out = room;
    deflate(&stream, Z_SYNC_FLUSH);
    deflateEnd(&stream);
    free(wave->payload);
    wave->payload = small;
    wave->payload_len = stream.total_out - 4; /* RFC 7692 §7.2.1: without the last 00 00 ff ff */
}

static size_t write_head(unsigned char *frame, size_t length, int text, int compressed) {
    int bytes = length < 126 ? 0 : length < 65536 ? 2 : 8;
    frame[0] = 0x80 | (compressed ? 0x40 : 0) | (text ? 1 : 2);
    frame[1] = 0x80 | (bytes == 0 ? length : bytes == 2 ? 126 : 127);
    for (int i = 0; i < bytes; i++) frame[2 + i] = (uint64_t)length >> 8 * (bytes - 1 - i);
    return 2 + bytes;
}

/* As many copies of the frame as one write takes, so that a burst is one write. */
void make_wave(struct wave *wave, const char *file, size_t size, int text, int deflate) {
    static const unsigned char key[4] = {0x37, 0xfa, 0x21, 0x3d};
    if (file) read_payload(wave, file);
    else invent_payload(wave, size);
    if (deflate) compress_payload(wave);
    unsigned char *frame = malloc(wave->payload_len + 14);
    size_t head = write_head(frame, wave->payload_len, text, deflate);
    memcpy(frame + head, key, 4);
    for (size_t i = 0; i < wave->payload_len; i++)
        frame[head + 4 + i] = wave->payload[i] ^ key[i & 3];
    wave->frame_len = head + 4 + wave->payload_len;
    size_t copies = wave->frame_len < WAVE_SIZE ? WAVE_SIZE / wave->frame_len : 1;
    wave->frames = malloc(wave->length = copies * wave->frame_len);
    for (size_t i = 0; i < copies; i++)
        memcpy(wave->frames + i * wave->frame_len, frame, wave->frame_len);
    free(frame);
}
