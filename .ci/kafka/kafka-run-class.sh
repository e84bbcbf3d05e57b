#!/bin/bash
# kafka-run-class.sh CLASS [ARGUMENT ...]
set -euo pipefail
home=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
class=$1
shift
case $class in
    org.apache.kafka.tools.*)
        libs="${home}/tools-libs/*" logging=tools-log4j2.yaml heap=-Xmx256M speed="-XX:TieredStopAtLevel=1 -XX:+UseSerialGC" ;;
    kafka.Kafka)
        libs="${home}/libs/*" logging=log4j2.yaml heap="-Xmx1G -Xms1G" speed="-XX:+UseG1GC -XX:MaxGCPauseMillis=20" ;;
    *)
        libs="${home}/libs/*" logging=tools-log4j2.yaml heap=-Xmx256M speed="-XX:TieredStopAtLevel=1 -XX:+UseSerialGC" ;;
esac
config="${home}/config/${logging}"
[[ -e $config ]] || config="/etc/kafka/docker/${logging}"
# The options are lists of words on purpose.
# shellcheck disable=SC2086
exec java ${KAFKA_HEAP_OPTS:-$heap} ${KAFKA_JVM_PERFORMANCE_OPTS:-$speed} ${KAFKA_OPTS:-} -Djava.awt.headless=true \
    -Dlog4j2.configurationFile="file:${config}" -Dkafka.logs.dir="${home}/logs" \
    -cp "${CLASSPATH:+${CLASSPATH}:}${libs}" "$class" "$@"
