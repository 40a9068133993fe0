# Writes OUT, a header with DAVID_BUILD_ID: the digest of the sources of the engine and its plugins, and of the
# build's settings. cmake -DOUT=… -DTREE=… -DHOW=… -P build_id.cmake. The file keeps its modification time where
# nothing has changed.
file(GLOB_RECURSE sources ${TREE}/engine/*.c ${TREE}/engine/*.h ${TREE}/engine/*.def ${TREE}/engine/*.cu ${TREE}/engine/*.cuh
  ${TREE}/proto/models/dtype.* ${TREE}/proto/error.* ${TREE}/proto/status.def)
list(SORT sources)
set(all "${HOW}")
foreach(source ${sources})
  file(SHA256 ${source} digest)
  string(APPEND all " ${digest}")
endforeach()
string(SHA256 id "${all}")
string(SUBSTRING ${id} 0 16 id)
file(CONFIGURE OUTPUT ${OUT} CONTENT "/* Made by engine/build_id.cmake. */\n#define DAVID_BUILD_ID \"${id}\"\n")
