include { options ; words } from '../shell'

// The gate before all heavy steps: every sample's problems in one go, and what all samples must agree on
process CHECK_INPUTS {
    label 'process_single'
    label 'image_cpu'

    input:
    path samples                                  // samples.json
    path checked, stageAs: 'checked/*'            // [ S.preflight.json ] in samplesheet order
    path peaks, stageAs: 'peaks/*'                // the run's peaks (BED), or []
    path reference, stageAs: 'reference/*'        // trained model, or []
    path aliases, stageAs: 'aliases/*'            // spellings of features, or []
    path fasta, stageAs: 'genome/fasta/*'         // of --regulation, and what follows: or []
    path motifs, stageAs: 'genome/motifs/*'
    path chrom_sizes, stageAs: 'genome/chrom_sizes/*'
    path gtf, stageAs: 'genome/gtf/*'
    path tss, stageAs: 'genome/tss/*'
    val settings                                  // [ peak_source, min_shared_genes, regulation, genome, ... ]

    output:
    path 'plan.json', emit: plan                  // { peak_set: given | matrix | reference | samples | macs3 | none }
    path 'peaks.bed', emit: peaks, optional: true // peaks that are known before any are called
    path 'kept', emit: qc                         // <sample>/<sample>.preflight.json
    path '*.resources.json', topic: resources
    tuple val("${task.process}"), val('packages'), eval('multivi-nf --packages'), topic: versions
    tuple val("${task.process}"), val('purls'), eval('multivi-nf --purls'), topic: versions

    script:
    """
    multivi-nf-check-inputs --resources check_inputs.resources.json ${words(checked)} --samples=${samples} \\
        ${options(peaks: peaks, reference: reference, feature_aliases: aliases)} ${options(settings)} \\
        ${options(fasta: fasta, motifs: motifs, chrom_sizes: chrom_sizes, gtf: gtf, tss: tss)} \\
        --output=plan.json --peaks-output=peaks.bed
    for file in checked/*.preflight.json; do
        sample="\$(basename "\$file" .preflight.json)"
        mkdir -p "kept/\$sample"
        cp -L "\$file" "kept/\$sample/"
    done
    """

    stub:
    """
    echo '{"peak_set": "macs3", "warnings": []}' > plan.json
    mkdir -p kept/stub
    echo '{}' > kept/stub/stub.preflight.json
    echo '{}' > check_inputs.resources.json
    """
}
