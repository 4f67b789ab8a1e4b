# Stands in for docker.io/library/rust: this machine's toolchain on Debian, with the C compiler that crates need.
FROM docker.io/library/debian:12.11-slim
RUN apt-get -qq update \
    && apt-get -qq install -y --no-install-recommends ca-certificates gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
COPY --from=toolchain bin /usr/local/bin
COPY --from=toolchain lib /usr/local/lib
ENV CARGO_HOME=/usr/local/cargo
