foreach(name dtype atomic_file safetensors model_info torch_zip)
  david_test(NAME test_${name} LABEL unit SOURCES test_${name}.c LIBS david_proto)
endforeach()
david_test(NAME test_checkpoints LABEL golden SOURCES test_checkpoints.c LIBS david_proto)
