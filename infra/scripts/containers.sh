# shellcheck shell=bash
# What the scripts that use containers share: Docker where its daemon answers, else buildah and podman, which need none.
# CONTAINER_ENGINE=docker or podman decides otherwise.

if [ -z "${CONTAINER_ENGINE:-}" ]; then
    CONTAINER_ENGINE=podman
    if docker info >/dev/null 2>&1; then CONTAINER_ENGINE=docker; fi
fi
export CONTAINER_ENGINE
export CONTAINERS_CONF=${CONTAINERS_CONF:-$PWD/infra/scripts/containers.conf}
# Where there is no systemd nobody asks the health checks: infra/scripts/compose does.
if ! [ -d /run/systemd/system ]; then export DISABLE_HC_SYSTEMD=true; fi

# has_image NAME
has_image() {
    if [ "$CONTAINER_ENGINE" = docker ]; then
        docker image inspect "$1" >/dev/null 2>&1
    else
        podman image exists "$1"
    fi
}

# build_image ARGUMENT…: those that `docker build` takes.
#
# buildah's format is Docker's, since the other one knows no health check; and chroot is enough of an isolation to build in, and
# works where builders may not make namespaces.
build_image() {
    if [ "$CONTAINER_ENGINE" = docker ]; then
        DOCKER_BUILDKIT=1 docker build --quiet "$@"
    else
        buildah bud --quiet --format docker --isolation chroot "$@"
    fi
}
