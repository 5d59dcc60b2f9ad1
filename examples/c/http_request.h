/* Takes HTTP/1.x requests out of a buffer, one after the other, strictly: what is ambiguous is refused, never guessed.
 * A part of http_epoll.c; it does no I/O and knows nothing of connections. */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { INCOMPLETE = 0, MAX_SLOW_MS = 600000 };

struct request {
    int status;         /* what it is answered with; INCOMPLETE until its head is there */
    uint64_t body_left; /* what has not come yet of its body, which nobody reads */
    int64_t slow_ms;    /* /slow?ms=N */
    bool head, last;    /* the answer has no body; the client wants no further one */
};

/* Digits only, as in Content-Length: strtoull alone would take signs, blanks and overflow. */
static inline bool number(const char *text, const char *blanks, uint64_t max, uint64_t *out)
{
    size_t digits = strspn(text, "0123456789");

    if (digits == 0 || digits > 18 || text[digits + strspn(text + digits, blanks)])
        return false;
    *out = strtoull(text, NULL, 10);
    return *out <= max;
}

/* The value of a header field in a head whose lines end in NUL, or NULL; *count says how often it occurs. */
static inline const char *field(const char *head, const char *end, const char *name, int *count)
{
    const char *value = NULL;
    size_t length = strlen(name);

    *count = 0;
    for (const char *line = head; line < end; line += strlen(line) + 2) {
        if (line > head && strncasecmp(line, name, length) == 0 && line[length] == ':') {
            value = line + length + 1 + strspn(line + length + 1, " \t");
            ++*count;
        }
    }
    return value;
}

/* Reads one whole head, [head, end), its last line's CRLF included, and returns the status of the answer. */
static inline int read_head(struct request *r, char *head, char *end)
{
    char method[16], target[2048], *line_end;
    const char *value;
    uint64_t ms;
    int minor, used = 0, count;

    /* Only CRLF ends a line. Bare CR and LF, NUL, folded lines and a blank before the colon are read differently by
     * different servers, and that is how requests are smuggled. */
    for (char *line = head; line < end; line = line_end + 2) {
        line_end = memmem(line, (size_t)(end - line), "\r\n", 2);
        *line_end = '\0';
        if (line + strcspn(line, "\r\n") != line_end)
            return 400;
        if (line > head && (*line == ':' || line[strcspn(line, ": \t")] != ':'))
            return 400;
    }
    if (sscanf(head, "%15[A-Z] %2047[!-~] HTTP/1.%1d%n", method, target, &minor, &used) != 3 || head[used])
        return 400;
    r->head = strcmp(method, "HEAD") == 0;
    if (field(head, end, "Transfer-Encoding", &count))
        return 501;
    if (field(head, end, "Expect", &count))
        return 417;
    if ((value = field(head, end, "Content-Length", &count)) &&
        (count > 1 || !number(value, " \t", UINT64_MAX, &r->body_left)))
        return 400;
    value = field(head, end, "Connection", &count);
    r->last = minor == 0 || (value && strcasestr(value, "close"));
    if (strncmp(target, "/slow?ms=", 9) == 0) {
        if (!number(target + 9, "", MAX_SLOW_MS, &ms))
            return 400;
        r->slow_ms = (int64_t)ms;
    }
    return 200;
}

/* Takes what it can from in[0 .. *length), a full buffer at `capacity`. Returns the status once the request is there as
 * a whole, body included, and INCOMPLETE before. The caller zeroes the request between two. */
static inline int take_request(struct request *r, char *in, size_t *length, size_t capacity)
{
    size_t taken = 0, body;

    if (r->status == INCOMPLETE) {
        while (*length - taken >= 2 && memcmp(in + taken, "\r\n", 2) == 0)
            taken += 2; /* some clients end a body with one CRLF too many */
        char *head = in + taken, *end = memmem(head, *length - taken, "\r\n\r\n", 4);
        char *newline = memchr(head, '\n', *length - taken);
        if (end) {
            r->status = read_head(r, head, end + 2);
            taken = (size_t)(end + 4 - in);
        } else if (newline && (newline == head || newline[-1] != '\r')) {
            r->status = 400; /* its end would never come */
        } else if (*length - taken == capacity) {
            r->status = 431;
        }
    }
    if (r->status != INCOMPLETE) {
        body = r->body_left < *length - taken ? (size_t)r->body_left : *length - taken;
        r->body_left -= body;
        taken += body;
    }
    *length -= taken;
    memmove(in, in + taken, *length);
    return r->status == 200 && r->body_left > 0 ? INCOMPLETE : r->status;
}

static inline const char *reason(int status)
{
    switch (status) {
    case 200: return "OK";
    case 400: return "Bad Request";
    case 408: return "Request Timeout";
    case 417: return "Expectation Failed";
    case 431: return "Request Header Fields Too Large";
    default: return "Not Implemented";
    }
}
