# cmake -DIN=file -DOUT=file.c -P embed.cmake: the bytes of a file as a C array.
file(READ ${IN} hex HEX)
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${hex}")
string(REGEX REPLACE "(0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,)" "\\1\n" bytes "${bytes}")
file(WRITE ${OUT} "#include \"proto/messages/openapi.h\"\n\nconst char openapi_json[] = {\n${bytes}\n};\nconst size_t openapi_json_len = sizeof openapi_json;\n")
