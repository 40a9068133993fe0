# david as a container image: `docker build --target cpu .` or `--target cuda .`
#
# BASE is Debian 12. CUDA is an image with the same glibc or an older one that contains a CUDA toolkit of 12.8 or later
# and cuDNN 9.13 or later, in the layout of NVIDIA's own images. Run the result with the NVIDIA container toolkit
# (--gpus all). Without a GPU it runs on the CPU and logs the reason. Settings: DAVID_* variables; see README.md.
ARG BASE=docker.io/library/debian:bookworm-slim
ARG CUDA=docker.io/nvidia/cuda:13.0.1-cudnn-devel-ubuntu22.04

FROM ${BASE} AS build-base
COPY deploy/packages.sh deploy/packages-build.txt /packages/
RUN bash -c '. /packages/packages.sh && install_packages /packages/packages-build.txt'
COPY . /source

FROM build-base AS build-cpu
RUN cmake -S /source -B /build -G Ninja -DCMAKE_BUILD_TYPE=Release -DDAVID_TESTS=OFF -DDAVID_CUDA=OFF \
    && cmake --build /build && cmake --install /build --prefix /usr/local --strip

FROM ${CUDA} AS toolkit
# cuDNN's headers are links through /etc/alternatives in that image: the links are followed, and so are those of the
# libraries, under the names that are opened at run time. cuDNN opens the last three itself.
RUN mkdir -p /cudnn/include /cudnn/lib \
    && cp -L /usr/include/cudnn*.h /cudnn/include/ \
    && cd /usr/local/cuda/lib64 \
    && cp -L /usr/lib/x86_64-linux-gnu/libcudnn*.so.9 libcublasLt.so.[0-9][0-9] libnvrtc.so.[0-9][0-9] \
        libnvrtc-builtins.so.[0-9][0-9].[0-9] /cudnn/lib/

FROM build-base AS build-cuda
# The toolkit is mounted, not copied: it has gigabytes. Its path has a version number, since the plain name is a link
# in that image.
RUN --mount=type=bind,from=toolkit,source=/,target=/toolkit \
    cmake -S /source -B /build -G Ninja -DCMAKE_BUILD_TYPE=Release -DDAVID_TESTS=OFF -DDAVID_CUDA=ON \
        -DCUDAToolkit_ROOT="$(echo /toolkit/usr/local/cuda-*.*)" -DCUDNN_ROOT=/toolkit/cudnn \
    && cmake --build /build && cmake --install /build --prefix /usr/local --strip

FROM ${BASE} AS run-base
COPY deploy/packages.sh deploy/packages-run.txt /packages/
RUN bash -c '. /packages/packages.sh && install_packages /packages/packages-run.txt' \
    && rm -rf /packages /var/lib/apt/lists/* /var/cache/apt/*.bin \
    && useradd --system --uid 10001 --home-dir /var/lib/david --create-home --shell /usr/sbin/nologin david
ENV DAVID_LISTEN=0.0.0.0:8080 DAVID_MODELS=/usr/local/share/david/models DAVID_STATE=/var/lib/david
WORKDIR /var/lib/david
VOLUME /var/lib/david
EXPOSE 8080
STOPSIGNAL SIGTERM
# Ready, not only alive: the model is loaded and warm, and the daemon is not draining.
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
    CMD curl -fsS -o /dev/null "http://127.0.0.1:${DAVID_LISTEN##*:}/readyz" || exit 1
ENTRYPOINT ["/usr/local/bin/david"]
CMD ["serve"]

FROM run-base AS cuda
COPY --from=build-cuda /usr/local/bin/david /usr/local/bin/david
COPY --from=build-cuda /usr/local/lib/david/ /usr/local/lib/david/
COPY --from=build-cuda /usr/local/share/david/ /usr/local/share/david/
COPY --from=toolkit /cudnn/lib/ /usr/local/lib/
RUN ldconfig
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER david

# Last, so that a plain `docker build .` makes this target.
FROM run-base AS cpu
COPY --from=build-cpu /usr/local/bin/david /usr/local/bin/david
COPY --from=build-cpu /usr/local/share/david/ /usr/local/share/david/
USER david
