# david as a container image: `docker build --target cpu .` or `--target cuda .`
#
# BASE is Debian 12; CUDA names an image of the same glibc or an older one that holds the toolkit in /usr/local/cuda and cuDNN
# beside it (run the result with the NVIDIA container toolkit: --gpus all). Settings: DAVID_* variables; see README.md.
ARG BASE=docker.io/library/debian:bookworm-slim
ARG CUDA=docker.io/nvidia/cuda:12.6.3-cudnn-devel-ubuntu22.04

FROM ${BASE} AS build-base
COPY deploy/packages.sh deploy/packages-build.txt /packages/
RUN bash -c '. /packages/packages.sh && install_packages /packages/packages-build.txt'
COPY . /source

FROM build-base AS build-cpu
RUN cmake -S /source -B /build -G Ninja -DCMAKE_BUILD_TYPE=Release -DDAVID_TESTS=OFF -DDAVID_CUDA=OFF \
    && cmake --build /build && cmake --install /build --prefix /usr/local --strip

FROM ${CUDA} AS toolkit

FROM build-base AS build-cuda
COPY --from=toolkit /usr/local/cuda/ /usr/local/cuda/
COPY --from=toolkit /usr/include/cudnn*.h /usr/include/
COPY --from=toolkit /usr/lib/x86_64-linux-gnu/libcudnn* /usr/lib/x86_64-linux-gnu/
ENV PATH=/usr/local/cuda/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
RUN cmake -S /source -B /build -G Ninja -DCMAKE_BUILD_TYPE=Release -DDAVID_TESTS=OFF -DDAVID_CUDA=ON \
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
COPY --from=toolkit /usr/lib/x86_64-linux-gnu/libcudnn*.so.* /usr/lib/x86_64-linux-gnu/
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER david

# Last, so that it is what a plain `docker build .` makes.
FROM run-base AS cpu
COPY --from=build-cpu /usr/local/bin/david /usr/local/bin/david
COPY --from=build-cpu /usr/local/share/david/ /usr/local/share/david/
USER david
