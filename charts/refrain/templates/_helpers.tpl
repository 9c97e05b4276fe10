{{- /* Names. 40 characters leave room for what Kubernetes appends to a CronJob's and a StatefulSet's name. */ -}}
{{- define "refrain.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- default $full .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- /* Name of a cluster-wide object: no other release of the cluster has it, for no name has a colon. */ -}}
{{- define "refrain.clusterName" -}}
{{- printf "refrain:%s:%s" .Release.Namespace (include "refrain.fullname" .) -}}
{{- end -}}

{{- /* (dict "root" . "of" "stages") */ -}}
{{- define "refrain.serviceAccount" -}}
{{- $account := index .root.Values.serviceAccounts .of -}}
{{- $made := printf "%s-%s" (include "refrain.fullname" .root) .of -}}
{{- if $account.create -}}{{ default $made $account.name }}{{- else -}}{{ default "default" $account.name }}{{- end -}}
{{- end -}}

{{- define "refrain.selector" -}}
app.kubernetes.io/name: refrain
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "refrain.labels" -}}
{{- $ours := include "refrain.podLabels" (dict "root" .root "component" .component) | fromYaml -}}
{{- $chart := printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" -}}
{{- $release := dict "helm.sh/chart" $chart "app.kubernetes.io/version" .root.Chart.AppVersion "app.kubernetes.io/managed-by" .root.Release.Service -}}
{{- merge (dict) (default dict .labels) $release $ours | toYaml -}}
{{- end -}}

{{- /* Labels of a pod: nothing that changes with the chart's version alone, for that would roll pods. */ -}}
{{- define "refrain.podLabels" -}}
{{- $ours := merge (include "refrain.selector" . | fromYaml) (dict "app.kubernetes.io/part-of" "refrain") -}}
{{- merge $ours (default dict .podLabels) .root.Values.commonLabels | toYaml -}}
{{- end -}}

{{- /* Metadata of an object: (dict "root" . "component" "controller" "name" "…" "annotations" (dict)). */ -}}
{{- define "refrain.metadata" -}}
name: {{ .name }}
{{- if not .cluster }}
namespace: {{ .root.Release.Namespace }}
{{- end }}
labels:
  {{- include "refrain.labels" . | nindent 2 }}
{{- with merge (dict) (default dict .annotations) .root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- /* (dict "root" . "image" .Values.image.jobs) */ -}}
{{- define "refrain.image" -}}
{{- $image := .root.Values.image -}}
{{- $registry := required "image.registry is required: where the images of `make images` were pushed, such as registry.example/team" $image.registry -}}
{{- $name := printf "%s/%s" (trimSuffix "/" $registry) .image.repository -}}
{{- if .image.digest -}}{{ $name }}@{{ .image.digest }}{{- else -}}{{ $name }}:{{ default .root.Chart.AppVersion $image.tag }}{{- end -}}
{{- end -}}

{{- /* The store, as values say or as the object store of this release. */ -}}
{{- define "refrain.storeURL" -}}
{{- if and (not .Values.store.url) (not .Values.objectStore.enabled) -}}
{{- fail "store.url is required: s3://bucket, where the archive is kept (or objectStore.enabled=true, to try it out)" -}}
{{- end -}}
{{- default "s3://refrain" .Values.store.url | trimSuffix "/" -}}
{{- end -}}

{{- define "refrain.storeEndpoint" -}}
{{- if .Values.store.endpoint -}}{{ .Values.store.endpoint }}
{{- else if .Values.objectStore.enabled -}}http://{{ include "refrain.fullname" . }}-store:9000
{{- end -}}
{{- end -}}

{{- define "refrain.storeSecret" -}}
{{- if .Values.objectStore.enabled -}}
{{- default (printf "%s-store" (include "refrain.fullname" .)) .Values.objectStore.existingSecret -}}
{{- else -}}{{ .Values.store.existingSecret }}{{- end -}}
{{- end -}}

{{- define "refrain.modelCacheClaim" -}}
{{- if .Values.modelCache.enabled -}}
{{- default (printf "%s-models" (include "refrain.fullname" .)) .Values.modelCache.existingClaim -}}
{{- end -}}
{{- end -}}

{{- /* A Secret's value that is made once: what is there already stays. (dict "root" . "name" "…" "key" "token") */ -}}
{{- define "refrain.madeOnce" -}}
{{- $found := lookup "v1" "Secret" .root.Release.Namespace .name -}}
{{- $there := "" -}}
{{- if $found -}}{{- $there = index (default dict $found.data) .key | default "" -}}{{- end -}}
{{- default (randAlphaNum 40 | b64enc) $there -}}
{{- end -}}

{{- /* The controller needs a token to change adapters, and to ask where clients need keys; empty: no token. */ -}}
{{- define "refrain.hasToken" -}}
{{- with .Values.inference -}}
{{- if and .enabled (or (eq .mode "Swap") .apiKeys.existingSecret) -}}yes{{- end -}}
{{- end -}}
{{- end -}}

{{- define "refrain.swapSecret" -}}
{{- default (printf "%s-swap" (include "refrain.fullname" .)) .Values.inference.swapToken.existingSecret -}}
{{- end -}}

{{- /* Variables that stages and inference share, as a map. */ -}}
{{- define "refrain.sharedEnv" -}}
{{- with .Values.proxy.http }}
HTTP_PROXY: {{ . | quote }}
http_proxy: {{ . | quote }}
{{- end }}
{{- with .Values.proxy.https }}
HTTPS_PROXY: {{ . | quote }}
https_proxy: {{ . | quote }}
{{- end }}
{{- if or .Values.proxy.http .Values.proxy.https }}
{{- /* Botocore asks the proxy for names without a dot too. */}}
{{- $without := ternary (printf "%s,%s-store" .Values.proxy.noProxy (include "refrain.fullname" .)) .Values.proxy.noProxy .Values.objectStore.enabled }}
NO_PROXY: {{ $without | quote }}
no_proxy: {{ $without | quote }}
{{- end }}
{{- if and .Values.ca.configMap .Values.ca.everywhere }}
SSL_CERT_FILE: /etc/refrain-ca/ca.crt
REQUESTS_CA_BUNDLE: /etc/refrain-ca/ca.crt
{{- end }}
{{- end -}}

{{- define "refrain.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "refrain.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- /* Where a pod may run: the placement values of a component. */ -}}
{{- define "refrain.placement" -}}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .topologySpreadConstraints }}
topologySpreadConstraints:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- end -}}

{{- /* A pod's annotations as people want them; those of refrain.dev are the controller's. */ -}}
{{- define "refrain.podAnnotations" -}}
{{- range $key, $_ := . -}}
{{- if hasPrefix "refrain.dev/" $key -}}
{{- fail (printf "podAnnotations: %s is the controller's: the chart would take every promotion back at its next upgrade" $key) -}}
{{- end -}}
{{- end -}}
{{- toYaml . -}}
{{- end -}}

{{- /* Port of a URL. */ -}}
{{- define "refrain.port" -}}
{{- $url := urlParse . -}}
{{- $said := regexFind ":[0-9]+$" $url.host | trimPrefix ":" -}}
{{- default (ternary "443" "80" (eq $url.scheme "https")) $said -}}
{{- end -}}
