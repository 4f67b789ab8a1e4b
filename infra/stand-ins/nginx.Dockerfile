# Stands in for docker.io/library/nginx.
FROM docker.io/library/debian:12.11-slim
RUN groupadd --system --gid 101 nginx && useradd --system --uid 101 --gid 101 --home-dir /nonexistent nginx \
    && apt-get -qq update \
    && apt-get -qq install -y --no-install-recommends curl nginx-light \
    && rm -rf /var/lib/apt/lists/* \
    && install -d -m 755 /var/cache/nginx
STOPSIGNAL SIGQUIT
CMD ["nginx", "-g", "daemon off;"]
