{{- define "cosmolet.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "cosmolet.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else if contains (include "cosmolet.name" .) .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "cosmolet.name" .) | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "cosmolet.selectorLabels" -}}
app.kubernetes.io/name: {{ include "cosmolet.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "cosmolet.labels" -}}
{{ include "cosmolet.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end -}}

{{- define "cosmolet.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "cosmolet.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "cosmolet.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "cosmolet.namespace" -}}
{{- default .Release.Namespace .Values.namespace -}}
{{- end -}}

{{- /* The daemon's file: config, with the settings that the Go project's chart had at other places laid over it. */ -}}
{{- define "cosmolet.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- with .Values.bgp -}}
{{- $_ := set $config "bgp" (mergeOverwrite (default dict $config.bgp) (deepCopy .)) -}}
{{- end -}}
{{- with .Values.frr.socketPath -}}
{{- $_ := set $config.frr "socket_path" . -}}
{{- end -}}
{{- toYaml $config -}}
{{- end -}}

{{- define "cosmolet.vty" -}}
{{- default .Values.config.frr.socket_path .Values.frr.socketPath -}}
{{- end -}}

{{- define "cosmolet.port" -}}
{{- regexFind "[0-9]+$" .Values.config.http.listen -}}
{{- end -}}

{{- /* Where a process in the node's network reaches the daemon: the kubelet, and the test's pod. */ -}}
{{- define "cosmolet.host" -}}
{{- $host := regexReplaceAll ":[0-9]+$" .Values.config.http.listen "" | trimPrefix "[" | trimSuffix "]" -}}
{{- if eq $host "0.0.0.0" -}}127.0.0.1{{- else if eq $host "::" -}}::1{{- else -}}{{ $host }}{{- end -}}
{{- end -}}

{{- define "cosmolet.server" -}}
{{- $host := include "cosmolet.host" . -}}
{{- if contains ":" $host -}}[{{ $host }}]{{- else -}}{{ $host }}{{- end -}}:{{ include "cosmolet.port" . }}
{{- end -}}

{{- define "cosmolet.vtyGids" -}}
{{- if not .Values.frr.vtyGids -}}
{{- fail "frr.vtyGids is empty: it must list the numeric id of the group frrvty on the nodes. `getent group frrvty | cut -d: -f3` on a node tells it; then --set 'frr.vtyGids={120}'" -}}
{{- end -}}
{{- toYaml .Values.frr.vtyGids -}}
{{- end -}}

{{- /* Where the pods go. */ -}}
{{- define "cosmolet.placement" -}}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}
