target_sources(david_proto PRIVATE dtype.c atomic_file.c digest.c safetensors.c safetensors_write.c
  unet_arch.c model_info.c torch_zip.c unpickle.c pickle_machine.c pickle_reduce.c state_dict.c)
