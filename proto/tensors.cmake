target_sources(david_proto PRIVATE dtype.c atomic_file.c digest.c safetensors.c safetensors_write.c
  unet_arch.c model_info.c)
