/* The architecture: JSON text to numbers and back; every number and every combination is bounded
 * (engine/README.md section 2). */
#include "proto/models/unet_arch.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

enum {
    MAX_ARCH_TEXT = 4096,
    MAX_IMAGE_SIZE = 4096,
    MAX_CHANNELS = 8192, /* of any level: 9 * 8192 * 8192 weights are countable in 32 bits */
    MAX_RES_BLOCKS = 16,
    MAX_MULT = 64,
    MAX_HEADS = 1024,
    MAX_HEAD_CHANNELS = 1024,
    NORM_GROUPS = 32,
    IMAGENET_CLASSES = 1000,
    MAX_CLASSES = 1000,
    MAX_PATCH = 4
};

static const struct {
    const char *name, *text;
} published[] = {
    { "ffhq256",
      "{\"image_size\":256,\"num_channels\":128,\"num_res_blocks\":1,\"channel_mult\":\"1,1,2,2,4,"
      "4\","
      "\"learn_sigma\":true,\"class_cond\":false,\"attention_resolutions\":\"16\",\"num_heads\":4,"
      "\"num_head_channels\":64,\"use_scale_shift_norm\":true,\"resblock_updown\":true,"
      "\"use_new_attention_order\":false}" },
    { "imagenet256",
      "{\"image_size\":256,\"num_channels\":256,\"num_res_blocks\":2,\"channel_mult\":\"1,1,2,2,4,"
      "4\","
      "\"learn_sigma\":true,\"class_cond\":false,\"attention_resolutions\":\"32,16,8\","
      "\"num_heads\":4,\"num_head_channels\":64,\"use_scale_shift_norm\":true,"
      "\"resblock_updown\":true,\"use_new_attention_order\":false}" },
};

/* Level widths where channel_mult is absent; guided-diffusion defines them for these sizes only. */
static const struct {
    uint32_t image_size;
    const char *channel_mult;
} default_mult[] = { { 64, "1,2,3,4" }, { 128, "1,1,2,3,4" }, { 256, "1,1,2,2,4,4" } };

static enum status range(const char *name, int64_t v, int64_t low, int64_t high, struct error *err)
{
    if (v >= low && v <= high) return ST_OK;
    return error_set(err, ST_BAD_FILE,
                     "architecture: %s = %" PRId64 " is outside [%" PRId64 ", %" PRId64 "]", name,
                     v, low, high);
}

static enum status check_heads(const struct unet_arch *a, uint32_t level, struct error *err)
{
    uint32_t width = a->num_channels * a->channel_mult[level];
    if (a->num_head_channels == -1) {
        if (width % (uint32_t)a->num_heads != 0)
            return error_set(
                err, ST_BAD_FILE,
                "architecture: num_heads = %d does not divide the %u channels of level %u",
                a->num_heads, width, level);
    } else if (width % (uint32_t)a->num_head_channels != 0) {
        return error_set(
            err, ST_BAD_FILE,
            "architecture: num_head_channels = %d does not divide the %u channels of level %u",
            a->num_head_channels, width, level);
    }
    return ST_OK;
}

static enum status check_attention(const struct unet_arch *a, struct error *err)
{
    enum status s = range("num_heads", a->num_heads, 1, MAX_HEADS, err);
    if (s) return s;
    if (a->num_head_channels != -1) {
        s = range("num_head_channels", a->num_head_channels, 1, MAX_HEAD_CHANNELS, err);
        if (s) return s;
    }
    s = range("the number of attention_resolutions", a->attention_count, 0, ARCH_MAX_LEVELS, err);
    if (s) return s;
    for (uint32_t i = 0; i < a->attention_count; i++) {
        uint32_t ds = a->attention_ds[i];
        if (ds == 0 || a->image_size % ds != 0)
            return error_set(
                err, ST_BAD_FILE,
                "architecture: an attention_resolution does not divide image_size = %u",
                a->image_size);
        for (uint32_t j = 0; j < i; j++)
            if (a->attention_ds[j] == ds)
                return error_set(err, ST_BAD_FILE,
                                 "architecture: attention_resolutions names %u twice",
                                 a->image_size / ds);
        for (uint32_t level = 0; level < a->levels; level++) {
            if (ds != a->patch << level) continue;
            s = check_heads(a, level, err);
            if (s) return s;
        }
    }
    return a->no_middle_attention ? ST_OK : check_heads(a, a->levels - 1, err);
}

enum status unet_arch_check(const struct unet_arch *a, struct error *err)
{
    enum status s = range("image_size", a->image_size, 1, MAX_IMAGE_SIZE, err);
    if (!s) s = range("num_channels", a->num_channels, NORM_GROUPS, MAX_CHANNELS, err);
    if (!s) s = range("num_res_blocks", a->num_res_blocks, 1, MAX_RES_BLOCKS, err);
    if (!s) s = range("the number of channel_mult's levels", a->levels, 1, ARCH_MAX_LEVELS, err);
    if (s) return s;
    if (a->num_channels % NORM_GROUPS != 0)
        return error_set(
            err, ST_BAD_FILE,
            "architecture: num_channels = %u is not divisible by %d (groups of a norm)",
            a->num_channels, NORM_GROUPS);
    if (a->patch != 1 && a->patch != 2 && a->patch != MAX_PATCH)
        return error_set(err, ST_BAD_FILE, "architecture: patch = %u is not 1, 2 or %d", a->patch,
                         MAX_PATCH);
    if (a->image_size % arch_side_unit(a) != 0)
        return error_set(err, ST_BAD_FILE,
                         "architecture: image_size = %u is not divisible by %u (%u levels)",
                         a->image_size, arch_side_unit(a), a->levels);
    for (uint32_t i = 0; i < a->levels; i++) {
        s = range("channel_mult", a->channel_mult[i], 1, MAX_MULT, err);
        if (!s)
            s = range("num_channels * channel_mult", (int64_t)a->num_channels * a->channel_mult[i],
                      NORM_GROUPS, MAX_CHANNELS, err);
        if (s) return s;
    }
    if (a->class_cond ? a->num_classes < 1 || a->num_classes > MAX_CLASSES : a->num_classes != 0)
        return error_set(err, ST_BAD_FILE, "architecture: num_classes = %u does not fit class_cond",
                         a->num_classes);
    return check_attention(a, err);
}

/* "1,2,3": unsigned numbers with single commas and without blanks; an empty text is an empty
 * list. */
static enum status parse_list(uint32_t *n, uint32_t out[ARCH_MAX_LEVELS], const char *name,
                              const char *text, struct error *err)
{
    uint32_t count = 0;
    for (const char *p = text; *p;) {
        uint32_t v = 0;
        const char *start = p;
        for (; *p >= '0' && *p <= '9' && v <= MAX_CHANNELS; p++)
            v = v * 10 + (uint32_t)(*p - '0');
        if (p == start || v > MAX_CHANNELS || (*p != ',' && *p != '\0') ||
            (*p == ',' && p[1] == '\0') || count == ARCH_MAX_LEVELS)
            return error_set(err, ST_BAD_FILE,
                             "architecture: %s = \"%.64s\" is not a list of at most %d numbers",
                             name, text, ARCH_MAX_LEVELS);
        out[count++] = v;
        if (*p == ',') p++;
    }
    *n = count;
    return ST_OK;
}

struct reading {
    const json_t *object;
    size_t taken; /* keys found: compared with the object's size to detect unknown keys */
    struct error *err;
    enum status status;
};

static const json_t *take(struct reading *r, const char *key)
{
    const json_t *v = json_object_get(r->object, key);
    if (v) r->taken++;
    return v;
}

static int64_t take_integer(struct reading *r, const char *key, int64_t fallback, int64_t low,
                            int64_t high)
{
    const json_t *v = take(r, key);
    if (r->status || (!v && fallback >= low)) return fallback;
    if (!json_is_integer(v)) {
        r->status = error_set(r->err, ST_BAD_FILE, "architecture: %s is %s", key,
                              v ? "not an integer" : "missing");
        return fallback;
    }
    r->status = range(key, json_integer_value(v), low, high, r->err);
    return r->status ? fallback : json_integer_value(v);
}

static bool take_bool(struct reading *r, const char *key, bool fallback)
{
    const json_t *v = take(r, key);
    if (v && !json_is_boolean(v) && !r->status)
        r->status = error_set(r->err, ST_BAD_FILE, "architecture: %s is not true or false", key);
    return v ? json_is_true(v) : fallback;
}

static void take_list(struct reading *r, const char *key, const char *fallback, uint32_t *n,
                      uint32_t out[ARCH_MAX_LEVELS])
{
    const json_t *v = take(r, key);
    if (r->status) return;
    if (v ? !json_is_string(v) : !fallback)
        r->status = error_set(r->err, ST_BAD_FILE, "architecture: %s is %s", key,
                              v ? "not a text such as \"1,2\"" : "missing");
    else
        r->status = parse_list(n, out, key, v ? json_string_value(v) : fallback, r->err);
}

/* True for `second`, false for `first` or where the key is absent. */
static bool take_word(struct reading *r, const char *key, const char *first, const char *second)
{
    const json_t *v = take(r, key);
    const char *word = v ? json_string_value(v) : first;
    const bool is_second = word && strcmp(word, second) == 0;
    if (!r->status && !is_second && (!word || strcmp(word, first) != 0))
        r->status = error_set(r->err, ST_BAD_FILE, "architecture: %s is neither \"%s\" nor \"%s\"",
                              key, first, second);
    return is_second;
}

static enum status refuse_unknown_key(const json_t *object, struct error *err)
{
    static const char *const known[] = { "image_size",
                                         "num_channels",
                                         "num_res_blocks",
                                         "num_heads",
                                         "num_head_channels",
                                         "learn_sigma",
                                         "class_cond",
                                         "channel_mult",
                                         "use_scale_shift_norm",
                                         "resblock_updown",
                                         "use_new_attention_order",
                                         "attention_resolutions",
                                         "num_classes",
                                         "patch",
                                         "noise",
                                         "output",
                                         "sigma_cond",
                                         "level_cond",
                                         "middle_attention" };
    const char *key = "";
    json_t *value;
    json_object_foreach ((json_t *)object, key, value) {
        size_t i = 0;
        while (i < sizeof known / sizeof known[0] && strcmp(key, known[i]) != 0)
            i++;
        if (i == sizeof known / sizeof known[0]) break;
    }
    return error_set(err, ST_BAD_FILE, "architecture: unknown key \"%.64s\"", key);
}

static enum status parse_object(struct unet_arch *out, const json_t *object, struct error *err)
{
    struct reading r = { .object = object, .err = err };
    struct unet_arch a = { 0 };
    const char *mult = NULL;
    uint32_t resolutions[ARCH_MAX_LEVELS] = { 0 };
    a.image_size = (uint32_t)take_integer(&r, "image_size", 0, 1, MAX_IMAGE_SIZE);
    a.num_channels = (uint32_t)take_integer(&r, "num_channels", 0, NORM_GROUPS, MAX_CHANNELS);
    a.num_res_blocks = (uint32_t)take_integer(&r, "num_res_blocks", 0, 1, MAX_RES_BLOCKS);
    a.num_heads = (int32_t)take_integer(&r, "num_heads", 4, 1, MAX_HEADS);
    a.num_head_channels = (int32_t)take_integer(&r, "num_head_channels", -1, -1, MAX_HEAD_CHANNELS);
    a.learn_sigma = take_bool(&r, "learn_sigma", false);
    a.class_cond = take_bool(&r, "class_cond", false);
    a.use_scale_shift_norm = take_bool(&r, "use_scale_shift_norm", true);
    a.resblock_updown = take_bool(&r, "resblock_updown", false);
    a.use_new_attention_order = take_bool(&r, "use_new_attention_order", false);
    a.num_classes = (uint32_t)take_integer(&r, "num_classes", a.class_cond ? IMAGENET_CLASSES : 0,
                                           0, MAX_CLASSES);
    a.patch = (uint32_t)take_integer(&r, "patch", 1, 1, MAX_PATCH);
    a.noise_channels = take_word(&r, "noise", "added", "channels");
    a.linear_output = take_word(&r, "output", "tanh", "linear");
    a.sigma_cond = take_bool(&r, "sigma_cond", false);
    a.level_cond = take_bool(&r, "level_cond", false);
    a.no_middle_attention = !take_bool(&r, "middle_attention", true);
    for (size_t i = 0; i < sizeof default_mult / sizeof default_mult[0]; i++)
        if (default_mult[i].image_size == a.image_size) mult = default_mult[i].channel_mult;
    take_list(&r, "channel_mult", mult, &a.levels, a.channel_mult);
    take_list(&r, "attention_resolutions", "16,8", &a.attention_count, resolutions);
    if (r.status) return r.status;
    if (r.taken != json_object_size(object)) return refuse_unknown_key(object, err);
    for (uint32_t i = 0; i < a.attention_count; i++) {
        if (resolutions[i] == 0 || a.image_size % resolutions[i] != 0)
            return error_set(
                err, ST_BAD_FILE,
                "architecture: attention resolution %u does not divide image_size = %u",
                resolutions[i], a.image_size);
        a.attention_ds[i] = a.image_size / resolutions[i];
    }
    enum status s = unet_arch_check(&a, err);
    if (!s) *out = a;
    return s;
}

enum status unet_arch_parse(struct unet_arch *out, const char *text, struct error *err)
{
    json_error_t why;
    for (size_t i = 0; i < sizeof published / sizeof published[0]; i++)
        if (strcmp(text, published[i].name) == 0) text = published[i].text;
    if (strlen(text) > MAX_ARCH_TEXT)
        return error_set(err, ST_BAD_FILE, "architecture: %zu bytes of JSON, more than %d",
                         strlen(text), MAX_ARCH_TEXT);
    json_t *object = json_loads(text, JSON_REJECT_DUPLICATES, &why);
    enum status s =
        json_is_object(object)
            ? parse_object(out, object, err)
            : error_set(err, ST_BAD_FILE,
                        "architecture: neither ffhq256, imagenet256 nor a JSON object: %s",
                        object ? "another value" : why.text);
    json_decref(object);
    return s;
}

static void print_list(char *text, size_t size, const uint32_t *v, uint32_t n)
{
    size_t used = 0;
    text[0] = '\0';
    for (uint32_t i = 0; i < n && used < size; i++)
        used += (size_t)snprintf(text + used, size - used, i ? ",%u" : "%u", v[i]);
}

char *unet_arch_json(const struct unet_arch *a)
{
    char mult[ARCH_MAX_LEVELS * 12], attention[ARCH_MAX_LEVELS * 12];
    uint32_t resolutions[ARCH_MAX_LEVELS] = { 0 };
    for (uint32_t i = 0; i < a->attention_count; i++)
        resolutions[i] = a->image_size / a->attention_ds[i];
    print_list(mult, sizeof mult, a->channel_mult, a->levels);
    print_list(attention, sizeof attention, resolutions, a->attention_count);
    json_t *object =
        json_pack("{s:i, s:i, s:i, s:s, s:b, s:b, s:s, s:i, s:i, s:b, s:b, s:b}", "image_size",
                  (int)a->image_size, "num_channels", (int)a->num_channels, "num_res_blocks",
                  (int)a->num_res_blocks, "channel_mult", mult, "learn_sigma", a->learn_sigma,
                  "class_cond", a->class_cond, "attention_resolutions", attention, "num_heads",
                  a->num_heads, "num_head_channels", a->num_head_channels, "use_scale_shift_norm",
                  a->use_scale_shift_norm, "resblock_updown", a->resblock_updown,
                  "use_new_attention_order", a->use_new_attention_order);
    /* Keys that the published networks lack are written only where they differ, so that the texts
     * of those networks stay the same. */
    bool ok = object != NULL;
    if (a->class_cond && a->num_classes != IMAGENET_CLASSES)
        ok = ok && !json_object_set_new(object, "num_classes", json_integer(a->num_classes));
    if (a->patch != 1) ok = ok && !json_object_set_new(object, "patch", json_integer(a->patch));
    if (a->noise_channels)
        ok = ok && !json_object_set_new(object, "noise", json_string("channels"));
    if (a->linear_output) ok = ok && !json_object_set_new(object, "output", json_string("linear"));
    if (a->sigma_cond) ok = ok && !json_object_set_new(object, "sigma_cond", json_true());
    if (a->level_cond) ok = ok && !json_object_set_new(object, "level_cond", json_true());
    if (a->no_middle_attention)
        ok = ok && !json_object_set_new(object, "middle_attention", json_false());
    char *text = ok ? json_dumps(object, 0) : NULL;
    json_decref(object);
    return text;
}
